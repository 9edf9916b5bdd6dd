"""The demo's data: deterministic, in the paper's layout, and wrong exactly where it is meant to be."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import time
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from videor2_rl.config.sections import DataConfig, VideoConfig
from videor2_rl.dataset import load_samples
from videor2_rl.demo.events import COLOURS, KINDS, LETTERS, Faults, make_events, make_question, make_trace, time_key
from videor2_rl.demo.splits import Split, make_rows
from videor2_rl.make_demo import main
from videor2_rl.video.load import load_clip

SPLITS = ("base", "sft", "grpo", "heldout", "validation")
FAULTS = Faults(late=0.6, late_by_s=2, disagree=0.35, both_wrong=0.15, systematic=0.5)
SMALL = [f"--{split}-clips=1" for split in SPLITS] + ["--num-workers=1"]


def data_config(folder: Path) -> DataConfig:
    return DataConfig(None, None, str(folder), None, True, 0.1, None)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(demo_dir: Path, tmp_path: Path) -> None:
    """The two folders differ in their numbers of clips: a clip does not depend on how many there are."""
    assert main(["--output", str(tmp_path / "same"), *SMALL]) == 0
    assert main(["--output", str(tmp_path / "other"), *SMALL, "--seed=1"]) == 0
    first, same, other = digests(demo_dir), digests(tmp_path / "same"), digests(tmp_path / "other")
    clips = [name for name in same if name.startswith("clips/") and not name.endswith(".srt")]
    assert len(clips) == 5
    for name in [*clips, "model/model.safetensors", "model/tokenizer.json"]:
        assert same[name] == first[name], name
    for name in [*clips, "model/model.safetensors", *[f"{split}.json" for split in SPLITS]]:
        assert same[name] != other[name], name
    for split in SPLITS:
        rows = json.loads((tmp_path / f"same/{split}.json").read_text())
        assert rows == json.loads((demo_dir / f"{split}.json").read_text())[: len(rows)]


def test_a_qwen3_vl_is_made_with_the_same_bytes_each_time(tiny_qwen3_vl_dir: Path, tmp_path: Path) -> None:
    assert main(["--output", str(tmp_path), *SMALL, "--family=qwen3_vl"]) == 0
    assert json.loads((tmp_path / "model/config.json").read_text())["model_type"] == "qwen3_vl"
    assert digests(tmp_path / "model") == digests(tiny_qwen3_vl_dir)


def test_a_second_call_returns_at_once_and_a_changed_argument_starts_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--output", str(tmp_path / "demo"), *SMALL]
    assert main(arguments) == 0
    before = digests(tmp_path / "demo")
    started = time.monotonic()
    assert main(arguments) == 0
    assert time.monotonic() - started < 1 and "up to date" in capsys.readouterr().out
    assert digests(tmp_path / "demo") == before
    assert main([*arguments, "--late=1"]) == 0
    after = digests(tmp_path / "demo")
    assert {name for name in before if before[name] != after[name]} == {"sft.json", "manifest.json"}


def test_an_interrupted_folder_is_made_anew(tmp_path: Path) -> None:
    arguments = ["--output", str(tmp_path / "demo"), *SMALL]
    assert main(arguments) == 0
    manifest = tmp_path / "demo/manifest.json"
    whole = digests(tmp_path / "demo")
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "is_complete": False}))
    (tmp_path / "demo/clips/base/00000.mp4").unlink()
    assert main(arguments) == 0
    assert digests(tmp_path / "demo") == whole


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert main(["--output", str(tmp_path), *SMALL]) == 2
    assert "holds other files" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    "wrong",
    ["--late=1.5", "--base-clips=0", "--questions-per-clip=5", "--disagree=0.9", "--num-workers=0", "--seed=-1"],
)
def test_wrong_arguments_are_refused_before_anything_is_written(wrong: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--output", str(tmp_path / "demo"), wrong])
    assert caught.value.code == 2 and not (tmp_path / "demo").exists()


def test_help_loads_no_heavy_library() -> None:
    script = (
        "import sys\nfrom videor2_rl.make_demo import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'transformers', 'av', 'decord'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("split", SPLITS)
def test_every_file_loads_and_every_clip_shows_its_events(
    split: str, demo_dir: Path, video_config: VideoConfig
) -> None:
    """Read the events back from the decoded, scaled frames by nearest colour, knowing nothing of the renderer."""
    for sample in load_samples(str(demo_dir / f"{split}.json"), data=data_config(demo_dir)):
        clip, _ = load_clip(sample, video_config)
        assert clip.frames.shape == (16, 3, 28, 28)
        assert np.allclose(clip.timestamps_s, np.arange(16)), "also of the clip with a variable frame rate"
        assert sample.temporal_grounding is not None
        seen = _colours_by_onset(clip.frames)
        told = {int(key[3:]): sentence.split()[1] for key, sentence in sample.temporal_grounding.items()}
        assert seen == told
        assert sample.options == tuple(COLOURS)


def _colours_by_onset(frames: Any) -> dict[int, str]:
    """Second -> colour that is there and was not there a second before."""
    pixels = frames.astype(np.float32).transpose(0, 2, 3, 1).reshape(len(frames), -1, 3)
    palette = np.asarray([(110, 110, 110), *COLOURS.values()], np.float32)
    nearest = np.linalg.norm(pixels[:, :, None] - palette, axis=-1).argmin(axis=-1)
    names = list(COLOURS)
    shown = [{names[i - 1] for i in range(1, 5) if (frame == i).sum() >= 10} for frame in nearest]
    return {t: (shown[t] - shown[t - 1]).pop() for t in range(1, len(shown)) if shown[t] - shown[t - 1]}


def test_splits_share_no_clip_and_some_have_subtitles(demo_dir: Path) -> None:
    clips = list((demo_dir / "clips").rglob("*.m*"))
    assert len({path.read_bytes() for path in clips}) == len(clips) == 20
    assert (demo_dir / "clips/heldout/00000.srt").is_file()
    samples = load_samples(str(demo_dir / "heldout.json"), data=data_config(demo_dir))
    assert [sample.subtitles is not None for sample in samples] == [True, False, False, False]


def test_one_clip_has_a_variable_frame_rate_and_all_are_h264(demo_dir: Path) -> None:
    import av

    rates = []
    for path in sorted((demo_dir / "clips").rglob("*.m*")):
        with av.open(str(path)) as container:
            assert container.streams.video[0].codec_context.name == "h264"
            frames = container.decode(video=0)
            times = [float(cast(int, frame.pts) * cast(Fraction, frame.time_base)) for frame in frames]
        rates.append(len({round(step, 3) for step in np.diff(times)}))
    assert sorted(rates) == [1] * 19 + [2]


@given(st.integers(0, 2**32))
def test_events_are_apart_distinct_and_within_the_clip(seed: int) -> None:
    events = make_events(np.random.default_rng(seed))
    times = [event.time_s for event in events]
    assert len(events) == 3 and times[0] >= 1 and times[-1] <= 14 and min(np.diff(times)) >= 2
    assert len({event.colour for event in events}) == len({event.quadrant for event in events}) == 3


TRACE = re.compile(
    r"<think>((?:At \d\d:\d\d a \w+ \w+ appears\. ){3})In order: (.*)\. (.*) (\w+) \(([A-D])\)\.</think>\n"
    r"<answer>([A-D])</answer>"
)


@given(st.integers(0, 2**32), st.sampled_from(KINDS))
def test_a_clean_trace_is_right_in_every_part(seed: int, kind: Any) -> None:
    rng = np.random.default_rng(seed)
    events = make_events(rng)
    question = make_question(events, kind, rng=rng)
    trace = make_trace(events, question, faults=Faults(0, 0, 0, 0, 0), rng=rng)
    match = TRACE.fullmatch(trace)
    assert match is not None
    claims, order, lead, colour, concluded, answered = match.groups()
    assert order.split(", ") == [
        f"{name} {e.colour}" for name, e in zip(("first", "second", "last"), events, strict=True)
    ]
    assert claims == "".join(f"At {time_key(e.time_s)} a {e.colour} {e.shape} appears. " for e in events)
    by_kind = {"first": 0, "second": 1, "last": 2}
    if kind == "time":
        right = next(e for e in events if time_key(e.time_s) in question.text)
        assert lead == f"At {time_key(right.time_s)} it is"
    else:
        right = events[by_kind[kind]]
        assert lead == f"So {kind}"
    assert colour == right.colour and concluded == answered == LETTERS[list(COLOURS).index(right.colour)]


def test_faults_come_at_their_rates() -> None:
    """Over 2,400 rows a rate near 0.5 has a standard error of 0.01."""
    split = Split("sft", 600, 4, KINDS)
    clean = make_rows(Split("base", 1, 1, KINDS), faults=FAULTS, seed=0)[0]["conversations"][1]["value"]
    assert TRACE.fullmatch(clean)
    counts: Counter[str] = Counter()
    rows = make_rows(split, faults=FAULTS, seed=0)
    for row in rows:
        match = TRACE.fullmatch(row["conversations"][1]["value"])
        assert match is not None
        claims, order, _, _, concluded, answered = match.groups()
        told = [int(m) for m in re.findall(r"At 00:(\d\d)", claims)]
        true = [int(key[3:]) for key in row["temporal_grounding"]]
        counts["late"] += sum(t == r + 2 for t, r in zip(told, true, strict=True))
        counts["on time"] += sum(t == r for t, r in zip(told, true, strict=True))
        counts["disagree"] += concluded != answered
        counts["right answer"] += answered == _right_letter(row)
        colours = [sentence.split()[1] for sentence in row["temporal_grounding"].values()]
        assert re.findall(r"\w+ (\w+)", order) == colours, "the order is right in every trace"
    assert counts["late"] + counts["on time"] == 3 * len(rows)
    assert counts["late"] / (3 * len(rows)) == pytest.approx(0.6, abs=0.03)
    assert counts["disagree"] / len(rows) == pytest.approx(0.35, abs=0.04)
    # Meant right (0.5): answered so in 0.5 + 0.35 / 2; meant wrong: a third of the wrong letters is the right one.
    expected = 0.5 * 0.675 + 0.5 * 0.325 / 3
    assert counts["right answer"] / len(rows) == pytest.approx(expected, abs=0.04)


def _right_letter(row: dict[str, Any]) -> str:
    question = row["conversations"][0]["value"]
    grounding = list(row["temporal_grounding"].items())
    when = re.search(r"\d\d:\d\d", question)
    if when:
        sentence = row["temporal_grounding"][when[0]]
    else:
        sentence = grounding[{"first": 0, "second": 1, "last": 2}[question.split()[4].rstrip("?")]][1]
    return LETTERS[row["options"].index(sentence.split()[1])]


def test_grpo_rows_hold_the_right_answer_alone(demo_dir: Path) -> None:
    for row in json.loads((demo_dir / "grpo.json").read_text()):
        assert row["conversations"][1]["value"] == f"<answer>{_right_letter(row)}</answer>"
