"""Each clip is decoded once, whoever asks."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from videor2_rl.config.sections import VideoConfig
from videor2_rl.types import VideoSample
from videor2_rl.video import decode
from videor2_rl.video.cache import file_hash, load_or_make
from videor2_rl.video.load import load_clip
from videor2_rl.video.sources import Decoder

TIMES = [i / 4 for i in range(32)]


def sample(path: Path, **changes: object) -> VideoSample:
    return VideoSample("s", str(path), "q", "a", **changes)  # type: ignore[arg-type]


def test_the_second_load_reads_what_the_first_one_stored(
    write_video: Callable[..., Path], video_config: VideoConfig
) -> None:
    path = write_video("a.mp4", TIMES)
    first, made = load_clip(sample(path), video_config)
    second, read = load_clip(sample(path), video_config)
    assert (made.is_cached, made.decodes, read.is_cached, read.decodes) == (False, 1, True, 1)
    assert first.key == second.key and first.sample_fps == second.sample_fps
    assert np.array_equal(first.frames, second.frames) and np.array_equal(first.timestamps_s, second.timestamps_s)


def test_a_copy_under_another_name_is_the_same_clip(
    tmp_path: Path, write_video: Callable[..., Path], video_config: VideoConfig
) -> None:
    path = write_video("a.mp4", TIMES)
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(path.read_bytes())
    first, _ = load_clip(sample(path), video_config)
    second, stats = load_clip(sample(copy), video_config)
    assert first.key == second.key and stats.is_cached and stats.decodes == 1


@pytest.mark.parametrize(
    "change",
    [
        {"fps": 0.5},
        {"min_frames": 10},
        {"max_frames": 4},
        {"min_pixels": 12544},
        {"max_pixels": 3136},
        {"size_multiple": 28},
        {"timestamps": True},
        {"subtitles": True},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_setting_that_changes_frames_has_its_own_entry(
    change: dict[str, object], write_video: Callable[..., Path], video_config: VideoConfig
) -> None:
    path = write_video("a.mp4", TIMES)
    # Large enough for a stamp.
    usual = replace(video_config, min_pixels=112 * 112 - 1, max_pixels=112 * 112)
    first, _ = load_clip(sample(path), usual)
    other, stats = load_clip(sample(path), replace(usual, **change))  # type: ignore[arg-type]
    assert first.key != other.key and not stats.is_cached


def test_settings_that_do_not_change_frames_share_an_entry(
    write_video: Callable[..., Path], video_config: VideoConfig
) -> None:
    path = write_video("a.mp4", TIMES)
    load_clip(sample(path), video_config)
    assert load_clip(sample(path), replace(video_config, num_workers=7))[1].is_cached


def test_bounds_content_and_subtitles_are_part_of_the_address(
    tmp_path: Path, write_video: Callable[..., Path], video_config: VideoConfig
) -> None:
    config = replace(video_config, subtitles=True, min_pixels=112 * 112, max_pixels=112 * 112)
    subtitles = tmp_path / "a.srt"
    subtitles.write_text("1\n00:00:00,000 --> 00:00:09,000\none\n")
    path = write_video("a.mp4", TIMES)
    keys = {load_clip(sample(path), config)[0].key, load_clip(sample(path, clip_end_s=5.0), config)[0].key}
    keys.add(load_clip(sample(path, clip_start_s=1.0), config)[0].key)
    keys.add(load_clip(sample(path, clip_start_s=1.0, clip_end_s=6.0), config)[0].key)
    with_text, _ = load_clip(sample(path, subtitles=str(subtitles)), config)
    keys.add(with_text.key)
    subtitles.write_text("1\n00:00:00,000 --> 00:00:09,000\nanother text\n")
    keys.add(load_clip(sample(path, subtitles=str(subtitles)), config)[0].key)
    write_video("a.mp4", [*TIMES, 8.0])
    keys.add(load_clip(sample(path), config)[0].key)
    assert len(keys) == 7
    unread = replace(config, subtitles=False)
    with_file, _ = load_clip(sample(path, subtitles=str(subtitles)), unread)
    assert with_file.key == load_clip(sample(path), unread)[0].key


def test_a_file_is_hashed_again_only_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_hash(file, tmp_path / "cache") == expected
    stat = file.stat()
    file.write_bytes(b"abd")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file_hash(file, tmp_path / "cache") == expected, "same size and time: not read"
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert file_hash(file, tmp_path / "cache") != expected
    before = file_hash(file, tmp_path / "cache")
    file.write_bytes(b"abde")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert file_hash(file, tmp_path / "cache") != before, "another size"


def test_a_damaged_entry_is_made_again_and_counted(write_video: Callable[..., Path], video_config: VideoConfig) -> None:
    path = write_video("a.mp4", TIMES)
    clip, _ = load_clip(sample(path), video_config)
    (entry,) = Path(video_config.cache_dir).glob("clips/*/*.npz")
    entry.write_bytes(entry.read_bytes()[:500])
    again, stats = load_clip(sample(path), video_config)
    assert np.array_equal(clip.frames, again.frames)
    assert (stats.is_cached, stats.decodes) == (False, 2)
    _, stats = load_clip(sample(path), video_config)
    assert (stats.is_cached, stats.decodes) == (True, 2)


def test_a_cache_below_a_file_is_done_without(
    tmp_path: Path, write_video: Callable[..., Path], video_config: VideoConfig
) -> None:
    path, srt = write_video("a.mp4", TIMES), tmp_path / "a.srt"
    srt.write_text("1\n00:00:00,000 --> 00:00:09,000\nHello\n")
    stored, _ = load_clip(sample(path, subtitles=str(srt)), video_config)
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file" / "cache", Path("/proc/cache")):
        without = replace(video_config, cache_dir=str(folder))
        for _ in range(2):
            clip, stats = load_clip(sample(path, subtitles=str(srt)), without)
            assert clip.key == stored.key and np.array_equal(clip.frames, stored.frames)
            assert (stats.is_cached, stats.decodes) == (False, 1) and stats.cache_fault


def test_a_full_cache_is_done_without(write_video: Callable[..., Path], video_config: VideoConfig) -> None:
    path = write_video("a.mp4", TIMES)
    stored, stats = load_clip(sample(path), video_config)
    assert stats.cache_fault is None
    (entry,) = Path(video_config.cache_dir).glob("clips/*/*.npz")
    entry.unlink()
    entry.with_suffix(".decodes").unlink()
    entry.with_suffix(".decodes").symlink_to("/dev/full")
    clip, stats = load_clip(sample(path), video_config)
    assert np.array_equal(clip.frames, stored.frames)
    assert (stats.is_cached, stats.decodes, stats.cache_fault) == (False, 1, "No space left on device")
    assert not list(entry.parent.glob(".part-*"))


def test_what_a_cache_holds_is_read_where_nothing_can_be_written(
    write_video: Callable[..., Path], video_config: VideoConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video("a.mp4", TIMES)
    load_clip(sample(path), video_config)

    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("videor2_rl.video.cache._publish", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)
    _, stats = load_clip(sample(path), video_config)
    assert (stats.is_cached, stats.decodes, stats.cache_fault) == (True, 1, None)


def test_an_error_of_the_clip_itself_is_no_fault_of_the_cache(tmp_path: Path, video_config: VideoConfig) -> None:
    def make() -> NoReturn:
        raise PermissionError(13, "of the clip")

    with pytest.raises(PermissionError, match="of the clip"):
        load_or_make(tmp_path, "ab" * 32, make)


def _load_at_once(arguments: tuple[str, VideoConfig]) -> tuple[int, bool]:
    path, config = arguments
    _, stats = load_clip(VideoSample("s", path, "q", "a"), config)
    return stats.decodes, stats.is_cached


def test_processes_that_ask_at_once_decode_once(
    tmp_path: Path, write_video: Callable[..., Path], video_config: VideoConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video("a.mp4", TIMES)
    calls = tmp_path / "calls"
    original = decode.sources

    def slow_sources(name: str, decoder: Decoder, **bounds: float | None) -> object:
        import time

        with calls.open("a") as file:
            file.write("x")
        time.sleep(0.3)
        return original(name, decoder, **bounds)

    monkeypatch.setattr(decode, "sources", slow_sources)
    # Forked, so that the slow version is in the children.
    with multiprocessing.get_context("fork").Pool(3) as pool:
        results = pool.map(_load_at_once, [(str(path), video_config)] * 3, chunksize=1)
    assert calls.read_text() == "x"
    assert sorted(results) == [(1, False), (1, True), (1, True)]


def test_a_failure_stores_nothing(tmp_path: Path, video_config: VideoConfig) -> None:
    path = tmp_path / "bad.mp4"
    path.write_text("no video")
    for _ in range(2):
        with pytest.raises(Exception, match="unreadable"):
            load_clip(sample(path), video_config)
    assert not list(Path(video_config.cache_dir).glob("clips/*/*.npz"))
    assert not list(Path(video_config.cache_dir).glob("clips/*/*.decodes"))
