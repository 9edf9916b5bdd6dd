"""The page's order and first screen, what a phone sees of it, and a run's own terms."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from videor2_rl.evaluation.summary import METRICS
from videor2_rl.report.curves import own_terms
from videor2_rl.report.data import Evaluation, read_report_data
from videor2_rl.report.frames import Frames
from videor2_rl.report.headline import headline
from videor2_rl.report.html import render, shown_reward
from videor2_rl.report.plots import grpo_plots
from videor2_rl.report.rollouts import shown_rollouts
from videor2_rl.report.tables import metrics_worth_a_row

STYLE = resources.files("videor2_rl.report").joinpath("templates/style.css").read_text(encoding="utf-8")


def page_of(folder: Path) -> str:
    data = read_report_data(folder)
    return render(data, plots=[], rollouts=shown_rollouts(data, Frames()))


def test_three_tiles_and_one_sentence_say_what_the_table_says(pristine_demo_folder: Path) -> None:
    shown = headline(read_report_data(pristine_demo_folder))
    assert [tile.title for tile in shown.tiles] == ["Accuracy", "TAR precision", "TAC"]
    means = {}
    for stage in ("sft", "grpo"):
        summary = json.loads((pristine_demo_folder / f"evaluation/{stage}/sampled/summary.json").read_text())
        means[stage] = summary["metrics"]["accuracy"]["mean"]
    accuracy = shown.tiles[0]
    assert (accuracy.before, accuracy.after) == (f"{means['sft']:.2f}", f"{means['grpo']:.2f}")
    assert accuracy.change is not None and accuracy.change.note == "up"
    assert shown.sentence.count(". ") == 0 and shown.sentence.startswith(
        "On 64 held-out clips at temperature 1, from SFT"
    )
    page = page_of(pristine_demo_folder)
    assert page.index('class="tiles"') < page.index(shown.sentence) < page.index("<table")


def test_tar_statistics_that_say_the_same_are_shown_once_and_others_all(pristine_demo_folder: Path) -> None:
    evaluation = read_report_data(pristine_demo_folder).evaluations["grpo"]["sampled"]
    metrics, folded = metrics_worth_a_row([evaluation])
    assert metrics == ("accuracy", "tac", "tar_precision", "format", "response_tokens")
    assert folded == "TAR recall and F1 are the same as TAR precision throughout."
    other = json.loads(json.dumps(evaluation.summary))
    other["metrics"]["tar_recall"]["mean"] -= 0.1
    assert metrics_worth_a_row([Evaluation(summary=other, rows=())]) == (METRICS, "")


def test_the_tile_shows_the_tar_statistic_that_is_paid(pristine_demo_folder: Path) -> None:
    data = read_report_data(pristine_demo_folder)
    card = {"reward": {"temporal_alignment": {"statistic": "recall"}}}
    evaluations = {
        stage: {mode: dataclasses.replace(item, summary={**item.summary, "card": card}) for mode, item in modes.items()}
        for stage, modes in data.evaluations.items()
    }
    assert headline(dataclasses.replace(data, evaluations=evaluations)).tiles[1].title == "TAR recall"


def test_a_run_without_evaluations_shows_its_first_and_last_steps(pristine_demo_folder: Path) -> None:
    data = read_report_data(pristine_demo_folder / "grpo")
    shown = headline(data)
    values = [row["reward/accuracy"] for row in data.runs["grpo"].metrics]
    assert (shown.tiles[0].before, shown.tiles[0].after) == (
        f"{sum(values[:10]) / 10:.2f}",
        f"{sum(values[-10:]) / 10:.2f}",
    )
    assert "no interval" in shown.sentence
    assert [tile.title for tile in headline(read_report_data(pristine_demo_folder / "sft")).tiles] == [
        "Training loss",
        "Validation loss",
    ]


def test_what_is_missing_stands_at_the_end_and_the_reward_before_the_curves(demo_folder: Path) -> None:
    reward = {
        "rule": "video_r2",
        "accuracy": {"weight": 1.0},
        "temporal_alignment": {"weight": 0.0, "gate": True},
        "extra": {"brevity": {"weight": 0.25, "function": "mine.brevity"}},
    }
    (demo_folder / "grpo" / "config.yaml").write_text(json.dumps({"reward": reward}))
    shown = shown_reward(read_report_data(demo_folder / "grpo").runs["grpo"])
    assert shown is not None
    assert shown.sentence == "video_r2: 1 x accuracy + 0.25 x brevity; measured, not paid: temporal alignment."
    assert ("temporal_alignment.gate", "True") in shown.pairs
    page = page_of(demo_folder / "grpo")
    assert page.index('class="tiles"') < page.index(shown.sentence) < page.index("Not in this report")


def test_own_terms_are_drawn_and_stand_as_chips(demo_folder: Path) -> None:
    rows = [
        {"step": step, "reward/brevity": 0.1 * step, "reward/brevity_abstention_frac": 0.0, "reward/mean": 1.0}
        for step in range(1, 6)
    ]
    run = demo_folder / "grpo"
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    terms: dict[str, Any] = {
        name: {"verdict": "score", "value": 1.0, "detail": {}}
        for name in ("accuracy", "format", "consistency", "temporal_alignment")
    }
    terms["brevity"] = {"verdict": "score", "value": 0.375, "detail": {}}
    terms["politeness"] = {"verdict": "failure", "value": None, "detail": {"reason": "own bug"}}
    response = {
        "text": "r",
        "reward": None,
        "advantage": None,
        "terms": terms,
        "metrics": dict.fromkeys(("accuracy", "tac", "tar_precision", "tar_recall", "format"), 1.0),
    }
    record = {
        "sample_id": "s",
        "question": "?",
        "target": "A",
        "temporal_grounding": None,
        "frame_times_s": [0.0, 1.0],
        "responses": [response],
    }
    (run / "rollouts").mkdir()
    (run / "rollouts" / "step_000005.jsonl").write_text(json.dumps(record) + "\n")
    data = read_report_data(run)
    assert own_terms(rows) == ["brevity"]
    assert "Own reward terms" in [plot.title for plot in grpo_plots(data.runs["grpo"])]
    page = page_of(run)
    assert '<span class="chip none">brevity 0.38</span>' in page
    assert '<span class="chip failed">politeness failed</span>' in page and "Failed: own bug" in page


def test_every_link_of_the_contents_leads_to_a_rollout(pristine_demo_folder: Path) -> None:
    page = page_of(pristine_demo_folder)
    links = re.findall(r'<li><a href="#([^"]+)">', page)
    assert len(links) == 12 and links == re.findall(r'<article class="card sample" id="([^"]+)">', page)
    reasons = re.findall(r'<h3 class="reason">([^<]+)</h3>', page)
    assert len(reasons) == len(set(reasons)) >= 3
    assert re.findall(r"<div><b>([^<]+)</b>", page) == reasons


def test_a_reference_that_was_missed_is_called_so_and_never_crossed_out(pristine_demo_folder: Path) -> None:
    page = page_of(pristine_demo_folder)
    references = re.findall(r"<h3>References</h3>\s*<ul class=\"claims\">(.*?)</ul>", page, flags=re.DOTALL)
    marks = {mark for part in references for mark in re.findall(r'<li class="(\w+)">', part)}
    assert marks == {"hit", "missed"}
    assert "(missed by GRPO)" in page
    assert re.search(r"\.claims \.missed::before \{ content: \"\\2013", STYLE)


class Cells(HTMLParser):
    """Class of each table and whether something around it scrolls; labels of the cells of turned ones."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tables: list[tuple[str, bool]] = []
        self.unlabelled = 0
        self._open: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "div":
            self._open.append(values.get("class", ""))
        if tag == "table":
            scrolls = any("scroll" in name.split() for name in self._open)
            self.tables.append((values.get("class", ""), scrolls))
            self._first = True
        if tag == "tr":
            self._first = True
        if tag == "td":
            if self.tables[-1][0] == "turned" and not self._first and not values.get("data-label"):
                self.unlabelled += 1
            self._first = False

    def handle_endtag(self, tag: str) -> None:
        if tag == "div":
            self._open.pop()


def test_no_table_is_cut_on_a_phone(pristine_demo_folder: Path) -> None:
    page = page_of(pristine_demo_folder)
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    cells = Cells(page)
    # Turned tables label every cell; what is wider than a phone scrolls, and the shadow says so.
    wide = [table for table in cells.tables if table != ("turned", False) and not table[1]]
    assert ("turned", False) in cells.tables and cells.unlabelled == 0
    assert len(wide) == 1, "the table of seconds, of three short columns"
    phone = re.search(r"@media \(max-width: 640px\) \{(.*?)\n\}", STYLE, flags=re.DOTALL)
    assert phone is not None
    assert ".turned tr { display: grid" in phone[1] and "content: attr(data-label)" in phone[1]
    assert re.search(r"\.scroll \{[^}]*overflow-x: auto;[^}]*no-repeat local[^}]*no-repeat scroll", STYLE)
    assert re.search(r"\.frozen th:first-child, \.frozen td:first-child \{ position: sticky; left: 0;", STYLE)


def test_the_last_two_stages_and_their_change_come_first_on_a_phone(pristine_demo_folder: Path) -> None:
    page = page_of(pristine_demo_folder)
    row = re.search(r"<tr><td>Accuracy</td>(.*?)</tr>", page, flags=re.DOTALL)
    assert row is not None
    cells = re.findall(r'<td data-label="([^"]*)"\s*(?:class="([^"]*)")?', row[1])
    first = [label for label, classes in cells if "aside" not in classes.split()]
    assert first == ["SFT", "GRPO", "SFT &rarr; GRPO"]


@pytest.mark.parametrize("steps", [(0,), (0, 10)])
def test_held_out_rows_while_training_make_the_tiles(demo_folder: Path, steps: tuple[int, ...]) -> None:
    for step, stage in zip(steps, ("sft", "grpo"), strict=False):
        source = demo_folder / "evaluation" / stage / "greedy"
        shutil.copytree(source, demo_folder / "grpo" / "evaluation" / f"step_{step:06d}" / "greedy")
    shown = headline(read_report_data(demo_folder / "grpo"))
    if len(steps) == 1:
        assert shown.tiles[0].before_label == "first steps"
    else:
        assert (shown.tiles[0].before_label, shown.tiles[0].after_label) == ("step 0", "step 10")
        assert shown.tiles[0].change is not None and shown.tiles[0].change.note == "up"


def test_what_was_found_stands_before_how_it_was_made(pristine_demo_folder: Path) -> None:
    page = page_of(pristine_demo_folder)
    assert page.index('class="lead"') < page.index("Synthetic clips, a tiny")
