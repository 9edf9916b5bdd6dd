"""The frames that the model saw of a group's clip, as pictures."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videor2_rl.report.frames import Film, video_config
from videor2_rl.run.rollout_log import sample_of
from videor2_rl.view.media import ClipError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_KEPT_BYTES = 96 * 2**20
_LOSSLESS_PIXELS = 200 * 200


class Films:
    """The films that were asked for last, as many as have room."""

    def __init__(self) -> None:
        self._films: OrderedDict[tuple[str, str], Film] = OrderedDict()
        self._lock = threading.Lock()

    def film(self, record: Mapping[str, Any], clip: Path, settings: Mapping[str, Any], run_dir: Path) -> Film:
        """A logged group's frames, out of the run's cache or made again as the run made them.

        Raises:
            ClipError: the records do not say how, or the clip cannot be read.
        """
        from videor2_rl.video.errors import VideoError
        from videor2_rl.video.load import seen_frames

        config = video_config(settings.get("video"), beside=run_dir)
        if config is None:
            raise ClipError("the run's config.yaml does not say how its frames were sampled")
        name = (str(record.get("clip_key")), str(clip))
        with self._lock:
            film = self._films.get(name)
            if film is None:
                sample = replace(sample_of(record), video=str(clip))
                try:
                    film = Film(*seen_frames(sample, config, key=record.get("clip_key")))
                except VideoError as error:
                    raise ClipError(f"no frames: {error}") from None
                self._films[name] = film
            self._films.move_to_end(name)
            while len(self._films) > 1 and sum(kept.frames.nbytes for kept in self._films.values()) > _KEPT_BYTES:
                self._films.popitem(last=False)
        return film


def picture(frame: NDArray[np.uint8]) -> tuple[bytes, str]:
    """A frame [3, H, W] as a file, and its media type; small ones without loss, where every pixel counts."""
    import numpy as np
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(frame.transpose(1, 2, 0)))
    file = io.BytesIO()
    if image.width * image.height <= _LOSSLESS_PIXELS:
        image.save(file, "PNG")
        return file.getvalue(), "image/png"
    image.save(file, "JPEG", quality=88, subsampling=0)
    return file.getvalue(), "image/jpeg"
