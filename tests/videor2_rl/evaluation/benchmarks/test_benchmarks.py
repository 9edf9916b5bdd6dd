"""One fixture row in each published layout: question, options, clip, truth, a right answer and a wrong one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from videor2_rl.config.errors import ConfigError
from videor2_rl.evaluation.benchmarks import BENCHMARKS
from videor2_rl.evaluation.benchmarks.common import load_items, true_letter, without_letters
from videor2_rl.evaluation.benchmarks.scoring import score_response
from videor2_rl.evaluation.official import tac as official_tac
from videor2_rl.evaluation.official.cases import CASES

LINES = ["A. red", "B. green", "C. blue", "D. white"]
TEXTS = ["red", "green", "blue", "white"]
TEN = {letter: f"step {letter}" for letter in "ABCDEFGHIJ"}

LAYOUTS: list[tuple[str, str, dict[str, Any], str, str, str]] = [
    # benchmark, annotation file, row, clip, right answer, wrong answer
    (
        "mvbench",
        "json/action_sequence.json",
        {"video": "ZS9XR.mp4", "question": "What first?", "candidates": TEXTS, "answer": "blue"},
        "video/star/Charades_segment/ZS9XR.mp4",
        "(C) blue",
        "A",
    ),
    (
        "videomme",
        "videomme/test-00000-of-00001.parquet",
        {"videoID": "fFjv93ACGo8", "question_id": "001-1", "question": "Which?", "options": LINES, "answer": "C"},
        "data/fFjv93ACGo8.mp4",
        "C",
        "D",
    ),
    (
        "tempcompass",
        "mcq/test-00000-of-00001.parquet",
        {"uuid": "u1", "video_id": "123", "question": "Which way?", "options": LINES, "answer": "C"},
        "videos/123.mp4",
        "blue",
        "red",
    ),
    (
        "tempcompass",
        "multi-choice/test-00000-of-00001.parquet",
        {"video_id": "123", "question": "Which?\nA. red\nB. green\nC. blue", "answer": "C. blue", "dim": "order"},
        "videos/123.mp4",
        "C. blue",
        "B",
    ),
    (
        "mlvu",
        "json/1_plotQA.json",
        {"video": "movie_1.mp4", "question": "Who?", "candidates": TEXTS, "answer": "blue", "question_type": "plotQA"},
        "video/1_plotQA/movie_1.mp4",
        "C",
        "B",
    ),
    (
        "mlvu",
        "test-00000-of-00001.parquet",
        {"video_name": "m.mp4", "question": "Who?\n(A) red\n(B) green", "candidates": TEXTS[:2], "answer": "B"},
        "m.mp4",
        "(B) green",
        "A",
    ),
    (
        "longvideobench",
        "lvb_val.json",
        {"id": "86C_0", "video_path": "86C.mp4", "question": "Which?", "candidates": TEXTS, "correct_choice": 2},
        "videos/86C.mp4",
        "C",
        "A",
    ),
    (
        "longvideobench",
        "validation-00000-of-00001.parquet",
        {
            "id": "86C_0",
            "video_path": "86C.mp4",
            "question": "Which?",
            **{f"option{index}": text for index, text in enumerate([*TEXTS, "N/A"])},
            "correct_choice": 2,
        },
        "videos/86C.mp4",
        "The answer is C.",
        "A",
    ),
    (
        "videomathqa",
        "mcq/test-00000-of-00001.parquet",
        {"question_id": "7", "videoID": "v7", "question": "How many?", "options": [*LINES, "E. 18"], "answer": "E"},
        "videos/v7.mp4",
        "E. 18",
        "18.5",
    ),
    (
        "video_mmmu",
        "Adaptation/test-00000-of-00001.parquet",
        {
            "id": "validation_Art_Theory_5",
            "question": "Which style?",
            "options": [f"style {letter}" for letter in "ABCDEFGHIJ"],
            "answer": "J",
            "question_type": "multiple-choice",
        },
        "Art/validation_Art_Theory_5.mp4",
        "J",
        "I",
    ),
    (
        "video_mmmu",
        "Comprehension/test-00000-of-00001.parquet",
        {"id": "dev_Math_2", "question": "What is x?", "options": [], "answer": "12.5", "question_type": "open"},
        "Science/dev_Math_2.mp4",
        "x = 12.50",
        "13",
    ),
    (
        "mmvu",
        "validation.json",
        {
            "id": "val_1",
            "video": "https://huggingface.co/datasets/yale-nlp/MMVU/resolve/main/videos/Art/8.mp4",
            "question_type": "multiple-choice",
            "question": "Which?",
            "choices": dict(zip("ABCDE", [*TEXTS, "black"], strict=True)),
            "answer": "E",
        },
        "videos/Art/8.mp4",
        "E",
        "blue",
    ),
    (
        "mmvu",
        "validation.json",
        {
            "id": "val_2",
            "video": "https://huggingface.co/x/videos/Chemistry/1.mp4",
            "question_type": "open-ended",
            "question": "Which reaction?",
            "choices": {"A": "", "B": "", "C": "", "D": "", "E": ""},
            "answer": "Acid-base neutralization",
        },
        "videos/Chemistry/1.mp4",
        "It is an acid-base neutralization.",
        "oxidation",
    ),
    (
        "vsibench",
        "test.jsonl",
        {
            "id": 3,
            "dataset": "arkitscenes",
            "scene_name": "41069025",
            "question_type": "object_rel_distance",
            "question": "Which is closest?",
            "options": LINES,
            "ground_truth": "C",
        },
        "arkitscenes/41069025.mp4",
        "C. blue",
        "A",
    ),
    (
        "minerva",
        "minerva.json",
        {
            "key": "k:1",
            "video_id": "yt1",
            "question": "Which?",
            **{f"answer_choice_{index}": text for index, text in enumerate([*TEXTS, "black"])},
            "answer_id": 4,
        },
        "videos/yt1.mp4",
        "E",
        "D",
    ),
    (
        "minerva",
        "mcq/test-00000-of-00001.parquet",
        {"videoID": "yt1", "question_id": 0, "question": "Which?", "options": LINES, "answer": "C"},
        "videos/yt1.mp4",
        "(C)",
        "D",
    ),
    (
        "scivideobench",
        "data/test-00000-of-00001.parquet",
        {"video_id": "101", "question_id": "q1", "question": "Why?", "options": TEN, "answer": "J"},
        "videos/jove_101.mp4",
        "J",
        "A",
    ),
]


def write(folder: Path, file: str, rows: list[dict[str, Any]]) -> None:
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(json.dumps(rows))


def answered(text: str) -> str:
    return f"<think>At 00:05 it is seen.</think>\n<answer>{text}</answer>"


@pytest.mark.parametrize(("name", "file", "row", "clip", "right", "wrong"), LAYOUTS)
def test_a_published_row_becomes_a_question_whose_right_answer_scores_1_and_a_wrong_one_0(
    name: str, file: str, row: dict[str, Any], clip: str, right: str, wrong: str, tmp_path: Path
) -> None:
    write(tmp_path, file, [row])
    (tmp_path / clip).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / clip).touch()
    (item,) = load_items(BENCHMARKS[name], tmp_path)
    assert item.sample.video == str(tmp_path / clip)
    for option in item.question.options:
        assert f". {option}" in item.sample.question
    assert item.sample.question.count("red") <= 1
    assert item.doc["id"] == item.sample.sample_id == item.question.row_id
    assert score_response(answered(right), item.question)[1] == 1.0
    assert score_response(answered(wrong), item.question)[1] == 0.0
    assert score_response("no blocks", item.question) == (None, 0.0)


@pytest.mark.parametrize(("name", "file", "row", "clip", "right", "wrong"), LAYOUTS)
def test_our_rows_are_read_by_the_official_reader_as_lmms_evals_would_be(
    name: str, file: str, row: dict[str, Any], clip: str, right: str, wrong: str, tmp_path: Path
) -> None:
    write(tmp_path, file, [row])
    (item,) = load_items(BENCHMARKS[name], tmp_path)
    answer = str(score_response(answered(right), item.question)[0])
    logged = {
        "doc": dict(item.doc),
        "target": item.question.truth,
        "filtered_resps": [answered(right)],
        BENCHMARKS[name].score_key: BENCHMARKS[name].logged(item.doc, answer, item.question.truth),
    }
    case = CASES[name](logged)
    reply = answer if len(answer) == 1 else item.question.truth
    lenses = official_tac.read_case(case, think_reply=reply, answer_reply=reply)
    assert lenses.lmms.is_right or name in ("mmvu", "video_mmmu"), (case, lenses)
    assert case.answer == right


def test_numbers_earn_their_mean_relative_accuracy(tmp_path: Path) -> None:
    row = {
        "id": 1,
        "dataset": "scannet",
        "scene_name": "s",
        "question_type": "object_counting",
        "question": "How many chairs?",
        "options": None,
        "ground_truth": "4",
    }
    write(tmp_path, "test.jsonl", [row])
    (item,) = load_items(BENCHMARKS["vsibench"], tmp_path)
    # 3 is 25 % off: below the thresholds 1 - c for c = 0.50 ... 0.75, six of ten.
    scores = [score_response(answered(text), item.question)[1] for text in ("4", "four chairs", "3", "9", "none")]
    assert scores == [1.0, 1.0, 0.6, 0.0, 0.0]


def test_an_open_answer_with_a_percent_sign_is_a_number(tmp_path: Path) -> None:
    file, row = layout("mmvu")
    write(tmp_path, file, [{**row, "question_type": "open-ended", "answer": "12%"}])
    (item,) = load_items(BENCHMARKS["mmvu"], tmp_path)
    assert score_response(answered("about 12 percent"), item.question) == (12.0, 1.0)
    assert score_response(answered("13%"), item.question) == (13.0, 0.0)


@pytest.mark.parametrize(
    "task",
    [
        *("action_antonym", "action_count", "action_localization", "action_prediction", "action_sequence"),
        *("character_order", "counterfactual_inference", "egocentric_navigation", "episodic_reasoning"),
        *("fine_grained_action", "fine_grained_pose", "moving_attribute", "moving_count", "moving_direction"),
        *("object_existence", "object_interaction", "object_shuffle", "scene_transition", "state_change"),
        "unexpected_action",
    ],
)
def test_mvbench_s_twenty_tasks_are_known_by_the_names_of_their_files(task: str, tmp_path: Path) -> None:
    _, row = layout("mvbench")
    write(tmp_path, f"json/{task}.json", [row])
    (item,) = load_items(BENCHMARKS["mvbench"], tmp_path)
    assert str(item.question.row_id).startswith(f"{task}-")


def test_every_benchmark_has_a_fixture_row() -> None:
    assert {layout[0] for layout in LAYOUTS} == set(BENCHMARKS) and len(BENCHMARKS) == 11


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_folder_without_annotations_says_what_to_fetch_and_where_to_put_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_items(BENCHMARKS[name], tmp_path)
    message = str(caught.value)
    assert message.startswith("evaluation.benchmark_dir: ") and "\n" not in message
    assert BENCHMARKS[name].source in message and BENCHMARKS[name].layout in message


def test_a_row_in_another_layout_is_named_with_its_file_and_the_mend(tmp_path: Path) -> None:
    row = {"id": "a", "video_path": "a.mp4", "question": "?", "candidates": ["x", "y"], "correct_choice": 5}
    write(tmp_path, "lvb_val.json", [row])
    with pytest.raises(
        ConfigError, match=r"lvb_val.json, row 0: is not in the layout of LongVideoBench .*index.*fetch"
    ):
        load_items(BENCHMARKS["longvideobench"], tmp_path)


def test_a_limit_stops_early_and_equal_ids_are_refused(tmp_path: Path) -> None:
    row = {"id": "a", "video_path": "a.mp4", "question": "?", "candidates": ["x", "y"], "correct_choice": 1}
    write(tmp_path, "lvb_val.json", [row, row])
    assert len(load_items(BENCHMARKS["longvideobench"], tmp_path, limit=1)) == 1
    with pytest.raises(ConfigError, match="row 1: id 'a' comes twice"):
        load_items(BENCHMARKS["longvideobench"], tmp_path)


def test_letters_are_taken_off_only_where_every_option_has_its_own() -> None:
    assert without_letters(["A. red", "(B) green", "C: blue"]) == ("red", "green", "blue")
    assert without_letters(["A. red", "A. green"]) == ("A. red", "A. green")
    assert without_letters([]) == ()


def layout(name: str) -> tuple[str, dict[str, Any]]:
    """Annotation file and row of a benchmark's first fixture."""
    return next((file, dict(row)) for known, file, row, *_ in LAYOUTS if known == name)


def test_subtitles_are_those_beside_the_clip_and_none_where_there_are_none(tmp_path: Path) -> None:
    file, row = layout("videomme")
    write(tmp_path, file, [row])
    (item,) = load_items(BENCHMARKS["videomme"], tmp_path)
    assert item.sample.subtitles is None
    (tmp_path / "subtitle").mkdir()
    (tmp_path / "subtitle" / "fFjv93ACGo8.srt").touch()
    (item,) = load_items(BENCHMARKS["videomme"], tmp_path)
    assert item.sample.subtitles == str(tmp_path / "subtitle" / "fFjv93ACGo8.srt")


def test_a_part_of_a_clip_is_shown_from_its_start_to_its_end(tmp_path: Path) -> None:
    _, row = layout("mvbench")
    write(tmp_path, "json/state_change.json", [{**row, "start": 3.0, "end": 7.5}, {**row, "question": "Then?"}])
    bounded, whole = load_items(BENCHMARKS["mvbench"], tmp_path)
    assert (bounded.sample.clip_start_s, bounded.sample.clip_end_s) == (3.0, 7.5)
    assert (whole.sample.clip_start_s, whole.sample.clip_end_s) == (None, None)


def test_bounds_apply_to_a_whole_clip_and_not_to_one_that_is_cut_already(tmp_path: Path) -> None:
    file, row = layout("mvbench")
    write(tmp_path, file, [{**row, "start": 3.0, "end": 7.5}])
    bounds = {}
    # The cut one is found last and yet taken first.
    for folder in ("Charades_v1_480", "Charades_segment"):
        clip = tmp_path / "video/star" / folder / "ZS9XR.mp4"
        clip.parent.mkdir(parents=True)
        clip.touch()
        (item,) = load_items(BENCHMARKS["mvbench"], tmp_path)
        assert item.sample.video == str(clip)
        bounds[folder] = (item.sample.clip_start_s, item.sample.clip_end_s)
    assert bounds == {"Charades_v1_480": (3.0, 7.5), "Charades_segment": (None, None)}


@pytest.mark.parametrize(
    ("question_type", "options", "truth", "problem_type"),
    [("object_counting", None, "4", "number"), ("object_rel_distance", LINES, "C", "multiple choice")],
)
def test_the_reward_is_told_the_kind_of_answer(
    question_type: str, options: list[str] | None, truth: str, problem_type: str, tmp_path: Path
) -> None:
    file, row = layout("vsibench")
    write(tmp_path, file, [{**row, "question_type": question_type, "options": options, "ground_truth": truth}])
    (item,) = load_items(BENCHMARKS["vsibench"], tmp_path)
    assert item.sample.problem_type == problem_type


def test_the_kind_of_an_open_answer_is_left_to_the_reward_and_a_lone_letter_is_a_text(tmp_path: Path) -> None:
    file, row = layout("mmvu")
    write(tmp_path, file, [{**row, "question_type": "open-ended", "answer": "B"}])
    (item,) = load_items(BENCHMARKS["mmvu"], tmp_path)
    assert item.sample.problem_type is None
    # As letters, "B" and "C" would be two answers and so none.
    assert score_response(answered("vitamins B and C"), item.question) == ("vitamins B and C", 1.0)


def test_the_last_answer_block_is_the_answer(tmp_path: Path) -> None:
    file, row = layout("videomme")
    write(tmp_path, file, [row])
    (item,) = load_items(BENCHMARKS["videomme"], tmp_path)
    assert score_response("<answer>A</answer>" + answered("C"), item.question) == ("C", 1.0)
    assert score_response("<answer>C</answer>" + answered("A"), item.question) == ("A", 0.0)


def test_pictures_beside_a_question_do_not_fill_the_log(tmp_path: Path) -> None:
    file, row = layout("video_mmmu")
    write(tmp_path, file, [{**row, "image 1": "bytes"}])
    (item,) = load_items(BENCHMARKS["video_mmmu"], tmp_path)
    assert item.doc.keys() == {*row, "id"}


@pytest.mark.parametrize(
    ("answer", "options", "letter"),
    [
        (0, ["x", "y"], "A"),
        (1, ["x", "y"], "B"),
        ("y", ["x", "y"], "B"),
        ("B", ["x", "y"], "B"),
        ("(B)", ["x", "y"], "B"),
        ("A", ["B", "A"], "B"),  # The text of the second option: texts go before letters.
    ],
)
def test_the_true_letter_comes_from_an_index_a_text_or_a_letter(
    answer: str | int, options: list[str], letter: str
) -> None:
    assert true_letter(answer, options) == letter


@pytest.mark.parametrize("answer", [-1, 2, "C", "z", ""])
def test_an_answer_that_is_no_option_has_no_letter(answer: str | int) -> None:
    with pytest.raises(ValueError, match=r"is not the index of one of 2 options|is none of the options"):
        true_letter(answer, ["x", "y"])
