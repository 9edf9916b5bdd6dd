// The clip at the second that is talked about, beside it the frame that the model saw nearest to it, and all of them below.

import { clock, failed, get, h, say } from "./dom.js";
import { nearest, Player } from "./player.js";

export class Cinema {
  // onTime: told of every second that is shown.
  constructor({ onTime = () => {} } = {}) {
    this.onTime = onTime;
    this.times = [];
    this.pictures = [];
    this.screen = h("div", { class: "screen" }, h("p", { class: "soft wait" }, "Loading the clip\u2026"));
    this.clock = h("output", { class: "clock" }, "00:00");
    this.playing = h("button", { type: "button", class: "play", "aria-label": "Play", onclick: () => this.player?.toggle() }, "\u25b6");
    this.seen = h("figure", { class: "seen" });
    this.strip = h("ol", { class: "strip", tabindex: 0, "aria-label": "The frames that the model saw" });
    this.element = h(
      "div",
      { class: "cinema" },
      h("figure", { class: "clip" }, this.screen, h("figcaption", { class: "transport" }, this.playing, this.#stepper(-1, "One picture back", "\u2039"), this.#stepper(1, "One picture on", "\u203a"), this.clock)),
      this.seen,
    );
  }

  #stepper(by, label, sign) {
    return h("button", { type: "button", "aria-label": label, onclick: () => this.player?.step(by) }, sign);
  }

  // path: of the clip, without /file; name: for who cannot see it.
  async load(path, name, second) {
    this.player?.video.removeAttribute("src");
    this.player = null;
    try {
      const clip = await get(path);
      const video = h("video", { src: `${path}/file`, preload: "auto", playsinline: true, "aria-label": `Clip ${name}` });
      video.muted = true;
      video.addEventListener("click", () => this.player.toggle());
      for (const [event, label, sign] of [["play", "Pause", "\u2016"], ["pause", "Play", "\u25b6"]]) {
        video.addEventListener(event, () => {
          this.playing.textContent = sign;
          this.playing.setAttribute("aria-label", label);
        });
      }
      video.addEventListener("error", () => this.screen.replaceChildren(failed(new Error("The browser cannot play this clip."))));
      this.player = new Player(video, clip.times_s, clip.offset_s, (now) => this.#at(now));
      this.screen.replaceChildren(video);
      video.addEventListener("loadedmetadata", () => this.player.seek(second), { once: true });
    } catch (error) {
      this.screen.replaceChildren(failed(error));
    }
    this.#at(second);
  }

  // path: of the frames, without their number; of no times there are none.
  frames(path, times) {
    Object.assign(this, { path, times, place: undefined });
    this.pictures = times.map((time, place) =>
      h("li", {}, h("button", { type: "button", onclick: () => this.seek(time), "aria-label": `Frame ${place + 1} at ${clock(time)}` }, h("img", { src: `${path}/${place}`, alt: "", loading: "lazy" }), h("span", {}, clock(time)))),
    );
    this.strip.replaceChildren(...this.pictures);
    this.seen.replaceChildren();
    if (!times.length) return;
    const first = this.pictures[0].querySelector("img");
    first.addEventListener("error", async () => {
      const answer = await fetch(`${path}/0`);
      const detail = answer.ok ? "the frames cannot be shown" : (await answer.json()).detail;
      this.strip.replaceChildren(h("li", { class: "note" }, detail));
      this.seen.replaceChildren();
      this.pictures = [];
    }, { once: true });
    first.addEventListener("load", () => {
      const isTiny = Math.max(first.naturalWidth, first.naturalHeight) < 120;
      for (const one of [this.element, this.strip]) one.classList.toggle("tiny", isTiny);
    }, { once: true });
  }

  seek(second) {
    this.#at(second);
    this.player?.seek(second);
    say(`clip at ${clock(second)}`);
  }

  #at(second) {
    this.second = second;
    this.onTime(second);
    this.clock.textContent = clock(second);
    if (!this.pictures.length) return;
    const place = nearest(this.times, second);
    if (place === this.place) return;
    this.pictures[this.place]?.removeAttribute("aria-current");
    this.place = place;
    const shown = this.pictures[place];
    shown.setAttribute("aria-current", "true");
    this.strip.scrollTo({ left: shown.offsetLeft - this.strip.offsetLeft - (this.strip.clientWidth - shown.clientWidth) / 2 });
    this.seen.replaceChildren(
      h("div", { class: "screen" }, h("img", { src: `${this.path}/${place}`, alt: `What the model saw at ${clock(this.times[place])}` })),
      h("figcaption", {}, "the model saw ", h("b", {}, clock(this.times[place])), h("span", { class: "soft" }, ` frame ${place + 1} of ${this.times.length}`)),
    );
  }

  close() {
    this.player?.video.removeAttribute("src");
  }
}
