"""Which files may be shown, and that a copy's pictures keep their times."""

from __future__ import annotations

from pathlib import Path

import pytest
from viewed_runs import numbered_clip

from videor2_rl.video.timeline import read_timeline
from videor2_rl.view.media import ClipError, Copies, copy_size, find_clip, media_roots

UNEVEN = [0.0, 0.1, 0.5, 0.6, 2.0, 2.04, 3.5, 4.0]


def test_a_clip_is_found_where_it_was_where_it_went_and_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "media/sub").mkdir(parents=True)
    (tmp_path / "new/sub").mkdir(parents=True)
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    settings = {"data": {"media_dir": str(tmp_path / "media")}}
    clip = tmp_path / "media/sub/a.mp4"
    clip.write_bytes(b"x")
    roots = media_roots(run_dir, settings, [])
    assert find_clip(str(clip), settings, roots) == clip.resolve()
    clip.rename(tmp_path / "new/sub/a.mp4")
    with pytest.raises(ClipError, match="--media FOLDER"):
        find_clip(str(clip), settings, roots)
    moved = media_roots(run_dir, settings, [tmp_path / "new"])
    assert find_clip(str(clip), settings, moved) == (tmp_path / "new/sub/a.mp4").resolve()


@pytest.mark.parametrize("video", ["/etc/hostname", "../../../../etc/hostname", "media/../../outside.mp4", ""])
def test_paths_do_not_leave_the_folders(video: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in/media").mkdir(parents=True)
    (tmp_path / "outside.mp4").write_bytes(b"x")
    monkeypatch.chdir(tmp_path / "in")
    with pytest.raises(ClipError):
        find_clip(video, {}, [tmp_path / "in/media"])


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    (tmp_path / "secret.mp4").write_bytes(b"x")
    (tmp_path / "media/clip.mp4").symlink_to(tmp_path / "secret.mp4")
    with pytest.raises(ClipError, match="outside the run's folders"):
        find_clip(str(tmp_path / "media/clip.mp4"), {}, [(tmp_path / "media").resolve()])


def test_what_a_browser_plays_is_served_as_it_is(tmp_path: Path) -> None:
    clip = numbered_clip(tmp_path / "a.mp4", [n / 25 for n in range(50)])
    found = Copies(tmp_path).playable(clip)
    assert (found.file, found.is_copy, found.offset_s) == (clip, False, 0.0)
    assert not (tmp_path / "view_cache").exists()


def test_uneven_pictures_are_copied_where_the_container_would_be_played(tmp_path: Path) -> None:
    clip = numbered_clip(tmp_path / "a.mp4", UNEVEN)
    found = Copies(tmp_path / "run").playable(clip)
    assert found.is_copy and found.times_s == pytest.approx(UNEVEN, abs=1e-3)


def test_a_copy_is_made_once_and_keeps_every_time(tmp_path: Path) -> None:
    clip = numbered_clip(tmp_path / "a.mkv", UNEVEN, codec="libx265")
    copies = Copies(tmp_path / "run")
    found = copies.playable(clip)
    assert found.is_copy and found.times_s == pytest.approx(UNEVEN, abs=1e-3)
    assert found.file.parent == tmp_path / "run" / "view_cache"
    timeline = read_timeline(str(found.file))
    assert timeline is not None and timeline.codec == "h264" and timeline.is_plain
    made = found.file.stat().st_mtime_ns
    assert Copies(tmp_path / "run").playable(clip).file.stat().st_mtime_ns == made


def test_a_broken_clip_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(ClipError, match=r"a\.mp4 cannot be played"):
        Copies(tmp_path).playable(tmp_path / "a.mp4")


@pytest.mark.parametrize(("size", "copy"), [((1919, 1081), (1278, 720)), ((113, 57), (112, 56)), ((1, 1), (2, 2))])
def test_a_copy_has_even_sides_and_is_not_too_high(size: tuple[int, int], copy: tuple[int, int]) -> None:
    assert copy_size(*size) == copy
