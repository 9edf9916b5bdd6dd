// The clip at an exact time. Pictures are found by their presentation times, never by a rate: the player is sent into the
// middle of the time for which the wanted picture is shown, so that no rounding leads to its neighbour.

const ROUNDING_S = 1e-4;

// Which picture is shown at a second: the last that began by then, the first one before it.
export function pictureAt(times, second) {
  let low = 0;
  let high = times.length - 1;
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (times[middle] <= second + ROUNDING_S) low = middle;
    else high = middle - 1;
  }
  return low;
}

// Which of some times is nearest to a second; of two equally near ones the earlier, as on the report.
export function nearest(times, second) {
  let best = 0;
  times.forEach((time, place) => {
    if (Math.abs(time - second) < Math.abs(times[best] - second)) best = place;
  });
  return best;
}

export class Player {
  // times: of the pictures, in seconds as the run knows them; offset: what the player's clock lacks of them.
  constructor(video, times, offset, onTime) {
    this.video = video;
    this.times = times;
    this.offset = offset;
    this.onTime = onTime;
    this.second = times[0];
    const told = () => this.#tell(video.currentTime);
    if ("requestVideoFrameCallback" in HTMLVideoElement.prototype) {
      const shown = (_, frame) => {
        this.#tell(frame.mediaTime);
        video.requestVideoFrameCallback(shown);
      };
      video.requestVideoFrameCallback(shown);
    } else {
      video.addEventListener("timeupdate", told);
    }
    video.addEventListener("seeked", told);
  }

  #tell(mediaTime) {
    const picture = pictureAt(this.times, mediaTime + this.offset);
    this.picture = picture;
    this.second = this.times[picture];
    this.onTime(this.second, picture);
  }

  // Show the picture of a second and stay there.
  seek(second) {
    this.show(pictureAt(this.times, second));
  }

  show(picture) {
    const place = Math.max(0, Math.min(this.times.length - 1, picture));
    const length = (this.times[place + 1] ?? this.times[place] + this.#lastLength()) - this.times[place];
    this.video.pause();
    this.video.currentTime = this.times[place] - this.offset + length / 2;
  }

  step(by) {
    this.show((this.picture ?? 0) + by);
  }

  toggle() {
    if (this.video.paused) this.video.play();
    else this.video.pause();
  }

  // For how long the last picture is shown, nothing says: at least until the end that the player reports.
  #lastLength() {
    const end = this.video.duration + this.offset - this.times.at(-1);
    return Number.isFinite(end) && end > 0 ? end : 0.02;
  }
}
