from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from videor2_rl.config.errors import ConfigError
from videor2_rl.evaluation.summary import METRICS
from videor2_rl.report.__main__ import write_report
from videor2_rl.report.bars import PHASES, binned_seconds
from videor2_rl.report.data import Run, read_report_data, report_numbers, series, stage_difference
from videor2_rl.report.drawing import thinned
from videor2_rl.report.frames import Frames
from videor2_rl.report.html import render
from videor2_rl.report.plots import grpo_plots
from videor2_rl.report.rollouts import shown_rollouts

HOSTILE = "<script>alert('x')</script> & <img src=https://example.org/x.png> </pre>"


class Page(HTMLParser):
    """Elements, their attributes, and the text outside of style sheets."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def reported_folder(pristine_demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo folder with its report; nothing else is written into it."""
    folder = Path(shutil.copytree(pristine_demo_folder, tmp_path_factory.mktemp("reported") / "demo"))
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(reported_folder: Path) -> str:
    return (reported_folder / "report.html").read_text()


def page_without_plots(folder: Path) -> str:
    """The page as `write_report` makes it, but for its plots, which take the most time by far."""
    data = read_report_data(folder)
    return render(data, plots=[], rollouts=shown_rollouts(data, Frames()))


def test_report_json_has_exactly_the_stable_form(reported_folder: Path) -> None:
    report = json.loads((reported_folder / "report.json").read_text())
    assert report.keys() == {"evaluation", "grpo", "seconds", "missing", "failures"}
    assert report["evaluation"].keys() == {"base", "sft", "grpo"}
    for stage in report["evaluation"].values():
        assert stage.keys() == {"sampled", "greedy"}
        for mode in stage.values():
            assert mode.keys() == {*METRICS, "num_samples"}
            assert mode["num_samples"] == 64
            for metric in METRICS:
                assert mode[metric].keys() == {"mean", "low", "high"}
                assert mode[metric]["low"] <= mode[metric]["mean"] <= mode[metric]["high"]
    assert report["grpo"].keys() == {"log_prob_gap_max", "decodes_per_clip", "steps"}
    assert report["grpo"]["steps"] == 40
    assert report["grpo"]["decodes_per_clip"] == 1.0
    assert report["seconds"] == {"make_demo": 50.5, "base": 120.0, "sft": 30.0, "grpo": 200.0, "total": 400.5}
    assert (report["missing"], report["failures"]) == ([], [])


def test_report_json_takes_its_numbers_from_the_files(demo_folder: Path) -> None:
    numbers = report_numbers(read_report_data(demo_folder))
    summary = json.loads((demo_folder / "evaluation" / "sft" / "greedy" / "summary.json").read_text())
    expected = {key: summary["metrics"]["tac"][key] for key in ("mean", "low", "high")}
    assert numbers["evaluation"]["sft"]["greedy"]["tac"] == expected
    rows = [json.loads(line) for line in (demo_folder / "grpo" / "metrics.jsonl").read_text().splitlines()]
    assert numbers["grpo"]["log_prob_gap_max"] == max(row["rollout/log_prob_gap_max"] for row in rows)


def test_a_step_whose_gap_was_not_finite_is_not_hidden_by_the_others(demo_folder: Path) -> None:
    path = demo_folder / "grpo" / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[3]["rollout/log_prob_gap_max"] = None
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert report_numbers(read_report_data(demo_folder))["grpo"]["log_prob_gap_max"] is None


def test_the_page_loads_nothing_from_anywhere(page: str) -> None:
    parsed = Page(page)
    assert not {"script", "link", "iframe", "object", "embed"} & set(parsed.tags)
    for name, value in parsed.attributes:
        if name == "src":
            assert value.startswith("data:image/jpeg;base64,")
        else:
            assert "//" not in value, (name, value)
        if name in ("href", "xlink:href"):
            assert value.startswith("#")
    assert not re.search(r"@import|url\((?!#)", page)


def test_a_hostile_response_is_shown_as_text(demo_folder: Path) -> None:
    for stage in ("base", "sft", "grpo"):
        path = demo_folder / "evaluation" / stage / "sampled" / "samples.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            row["resps"] = [[HOSTILE]]
            row["input"] = row["target"] = row["doc"]["video"] = HOSTILE
            row["doc"]["id"] += '"><b onclick=x>'
            for event in (*row["videor2_score"]["claims"], *row["videor2_score"]["references"]):
                event["text"] = '" onmouseover="x'
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    parsed = Page(page_without_plots(demo_folder))
    assert not {"script", "img"} & set(parsed.tags)
    assert not [name for name, _ in parsed.attributes if name.startswith("on")]
    # 12 samples, each with its question, expected answer and three responses, and one clip that is not there.
    assert parsed.text.count(HOSTILE) == 61


def test_the_page_has_every_plot_and_a_dozen_rollouts(page: str) -> None:
    titles = re.findall(r'<svg role="img" aria-label="([^"]*)"', page)
    assert titles == [
        "Held-out clips, temperature 1",
        "Held-out clips, greedy",
        "Reward",
        "Reward terms",
        "KL to the reference",
        "Log-prob gap",
        "Entropy",
        "Gradient norm",
        "Learning rate",
        "Clipped tokens",
        "Response length",
        "Groups without signal, truncated responses",
        "Time per step, by phase",
        "Base: loss",
        "Base: gradient norm",
        "SFT: loss",
        "SFT: gradient norm",
    ]
    assert page.count('<article class="card sample"') == 12
    assert "removes faults that SFT put in" in " ".join(page.split())


def test_ids_inside_the_drawings_are_unique_on_the_page(page: str) -> None:
    ids = [value for name, value in Page(page).attributes if name == "id"]
    clips = [value for value in ids if re.fullmatch(r"p[0-9a-f]{8,}", value)]
    assert clips
    assert len(clips) == len(set(clips))


def test_drawings_use_the_pages_colours_only(page: str) -> None:
    drawings = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(drawings) == 17
    for drawing in drawings:
        assert "var(--" in drawing
        assert not re.search(r"(?:fill|stroke|color)\s*[:=]\s*\"?#[0-9a-f]{3,6}", drawing)


def test_a_curve_has_a_gap_where_a_value_was_not_finite() -> None:
    rows = [{"step": step, "actor/kl": value} for step, value in enumerate((0.1, 0.2, None, 0.3, 0.4), start=1)]
    steps, values = series([*rows, {"step": 6}], "actor/kl")
    assert steps == [1, 2, 3, 4, 5]
    assert [math.isnan(value) for value in values] == [False, False, True, False, False]
    run = Run(metrics=tuple(rows), config="", settings={}, skipped=(), rollout_files=())
    [plot] = grpo_plots(run)
    assert (plot.title, "NaN" in plot.svg, "nan" in plot.svg) == ("KL to the reference", False, False)


def test_the_time_of_every_phase_is_drawn_in_few_colours() -> None:
    phases = ["prepare", "encode", "evaluate", "generate", "reward", "old_log_probs", "ref_log_probs"]
    phases += ["update", "sync_weights", "save", "snapshot", "evaluate_last", "wait"]
    rows = [{"step": step, **{f"timing_s/{phase}": 1.0 for phase in phases}} for step in (1, 2)]
    [plot] = grpo_plots(Run(metrics=tuple(rows), config="", settings={}, skipped=(), rollout_files=()))
    for number, label in enumerate(PHASES, start=1):
        assert f">{label}</text>" in plot.svg
        assert f"var(--series-{number})" in plot.svg
    [(first, last, seconds), _] = binned_seconds(rows)
    assert (first, last, sum(seconds.values())) == (1, 1, len(phases))


def test_a_long_series_is_drawn_as_means_of_consecutive_steps() -> None:
    steps, values = thinned(list(range(1, 2002)), [math.nan, *map(float, range(2, 2002))])
    assert (len(steps), steps[:2]) == (667, [2.0, 5.0])
    # The first point's mean is over 2 and 3 alone.
    assert values[:2] == [2.5, 5.0]
    assert thinned([1, 2], [0.5, math.nan])[0] == [1.0, 2.0]


def test_many_steps_share_a_bar_of_their_mean() -> None:
    rows = [{"step": step, "timing_s/update": float(step)} for step in range(1, 102)]
    bars = binned_seconds(rows)
    assert len(bars) == 21
    assert bars[0] == (1, 5, {"update": 3.0}) and bars[-1] == (101, 101, {"update": 101.0})


def test_a_series_of_zeros_lies_on_the_floor_of_a_sensible_axis() -> None:
    rows = [{"step": step, "reward/mean": 0.0, "reward/std": 0.0} for step in range(1, 6)]
    plots = grpo_plots(Run(metrics=tuple(rows), config="", settings={}, skipped=(), rollout_files=()))
    ticks = re.findall(r">([^<>]*)</text>", next(plot.svg for plot in plots if plot.title == "Reward"))
    assert {"0", "1"} <= set(ticks) and not [tick for tick in ticks if tick[0] in "-\N{MINUS SIGN}"]


def test_steps_are_whole_and_small_values_carry_their_own_exponent() -> None:
    rows = [{"step": step, "actor/kl": 1e-6 * step} for step in range(1, 5)]
    [plot] = grpo_plots(Run(metrics=tuple(rows), config="", settings={}, skipped=(), rollout_files=()))
    ticks = re.findall(r">([^<>]*)</text>", plot.svg)
    assert [tick for tick in ticks if tick.isdigit()] == ["1", "2", "3", "4"]
    assert {"2e-06", "4e-06"} <= set(ticks)


def test_two_reports_of_one_folder_are_equal(demo_folder: Path, page: str) -> None:
    assert write_report(demo_folder).read_text() == page


def test_missing_pieces_are_said_and_not_invented(demo_folder: Path) -> None:
    for mode in ("base", "sft", "grpo"):
        shutil.rmtree(demo_folder / "evaluation" / mode / "greedy")
    shutil.rmtree(demo_folder / "evaluation" / "base" / "sampled")
    shutil.rmtree(demo_folder / "grpo")
    (demo_folder / "timing.json").unlink()
    report = report_numbers(read_report_data(demo_folder))
    page = page_without_plots(demo_folder)
    assert report["missing"] == [
        "No training metrics of stage grpo.",
        "No sampled or greedy evaluation of stage base.",
        "No greedy evaluation of stage sft.",
        "No greedy evaluation of stage grpo.",
        "No timing.json, so no seconds per phase.",
    ]
    assert report["evaluation"].keys() == {"sft", "grpo"}
    assert not {"grpo", "seconds"} & report.keys()
    for sentence in report["missing"]:
        assert sentence in page


def test_an_event_beyond_the_clip_stays_on_the_timeline(demo_folder: Path) -> None:
    path = demo_folder / "evaluation" / "sft" / "sampled" / "samples.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["videor2_score"]["claims"][0] |= {"start_s": 500.0, "end_s": 359_999.0}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for sample in shown_rollouts(read_report_data(demo_folder), Frames()).samples:
        for event in (*sample.references, *(claim for response in sample.responses for claim in response.claims)):
            assert 0 <= event.left <= event.left + event.width <= 100
        # The references keep their place: an absurd claim does not squeeze them to nothing.
        assert sample.references[-1].left > 40


def test_an_unfinished_evaluation_counts_as_missing(demo_folder: Path) -> None:
    (demo_folder / "evaluation" / "base" / "greedy" / "summary.json").unlink()
    assert read_report_data(demo_folder).missing == ("No greedy evaluation of stage base.",)


def test_an_evaluation_that_does_not_tell_failures_from_abstentions_is_refused(demo_folder: Path) -> None:
    path = demo_folder / "evaluation" / "base" / "greedy" / "summary.json"
    summary = json.loads(path.read_text())
    del summary["num_failed"]
    path.write_text(json.dumps(summary))
    with pytest.raises(ConfigError, match=r"has no num_failed.*evaluate again"):
        read_report_data(demo_folder)


def test_evaluations_of_different_samples_are_not_compared(demo_folder: Path) -> None:
    path = demo_folder / "evaluation" / "grpo" / "sampled" / "samples.jsonl"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    data = read_report_data(demo_folder)
    assert stage_difference(data, "sft", "grpo", mode="sampled", metric="accuracy") is None
    assert stage_difference(data, "base", "sft", mode="sampled", metric="accuracy") is not None
    assert "n/a" in page_without_plots(demo_folder)


def test_a_single_run_is_reported_with_its_training_rollouts(demo_folder: Path) -> None:
    event = {"start_s": 3.0, "end_s": 3.0, "text": "A red circle appears."}
    terms = {
        "temporal_alignment": {"claims": [{**event, "reference": 0, "outcome": "matched"}], "references": [event]},
        "accuracy": {"answer": 0.0},
        "consistency": {},
        "format": {},
    }
    response = {
        "text": "a training response",
        "reward": 2.5,
        "advantage": -0.25,
        "terms": {name: {"verdict": "score", "detail": detail} for name, detail in terms.items()},
        "metrics": {**dict.fromkeys(METRICS, 1.0), "tac": None},
    }
    record = {
        "sample_id": "train-1",
        "question": "How many?",
        "target": "0",
        "temporal_grounding": {"00:03": "A red circle appears."},
        "frame_times_s": [0.0, 1.0, 2.0, 3.0],
        "responses": [{**response, "reward": reward} for reward in (1.5, 2.5, 0.5)],
    }
    (demo_folder / "grpo" / "rollouts").mkdir()
    (demo_folder / "grpo" / "rollouts" / "step_000007.jsonl").write_text(json.dumps(record) + "\n")
    page = page_without_plots(demo_folder / "grpo")
    assert page.count("a training response") == 2
    assert "train-1, step 7</p>" in page
    assert page.count("Reward 2.50, advantage -0.25.") == page.count("Reward 0.50, advantage -0.25.") == 1
    assert "Rollout 2, highest reward" in page and "Rollout 3, lowest reward" in page
    # 0 is an answer.
    assert page.count("answer: 0.0") == 2
    assert "What this shows, and what it does not" not in page
    report = report_numbers(read_report_data(demo_folder / "grpo"))
    assert report["missing"] == ["No evaluation in this run's folder."]
    assert report["grpo"]["steps"] == 40


def test_a_folder_with_nothing_to_report_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds neither"):
        write_report(tmp_path)
    with pytest.raises(ConfigError, match="is not a folder"):
        write_report(tmp_path / "none")


def test_the_command_line_explains_itself_quickly_and_fails_with_one_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "videor2_rl.report"]
    started = time.perf_counter()
    helped = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True)
    assert time.perf_counter() - started < 10
    assert "report.json" in helped.stdout
    failed = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=False)
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: ")
    assert failed.stderr.count("\n") == 1
