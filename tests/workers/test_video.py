"""The video workers as the driver sees them."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from videor2_rl.config.sections import ModelConfig, VideoConfig
from videor2_rl.types import PromptHandle, VideoSample
from workers.video import VideoPool


@pytest.mark.ray
@pytest.mark.slow
def test_a_cache_that_cannot_be_written_is_told_once_and_every_decode_is_counted(
    demo_dir: Path,
    tmp_path: Path,
    model_config: ModelConfig,
    video_config: VideoConfig,
    ray_cluster: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").touch()
    video = replace(video_config, cache_dir=str(tmp_path / "file" / "cache"), num_workers=2)
    clips = sorted((demo_dir / "clips").glob("*/*.mp4"))[:3]
    samples = [VideoSample(clip.stem + clip.parent.name, str(clip), "What?", "A") for clip in clips]
    pool = VideoPool(model_config, video, max_prompt_tokens=512)
    with caplog.at_level(logging.WARNING, logger="workers.video"):
        for _ in range(2):
            assert all(isinstance(prompt, PromptHandle) for prompt in pool.prepare(samples))
    pool.shutdown()
    [said] = [record.getMessage() for record in caplog.records if record.name == "workers.video"]
    assert said.startswith(
        f"video.cache_dir: cannot write to {video.cache_dir} (Not a directory); the run goes on without"
    )
    assert pool.decodes_per_clip() == 2.0
