"""Rows as later versions of lmms-eval write them: each benchmark's own score dict, with and without `doc`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from videor2_rl.config.judge import RulesJudge
from videor2_rl.config.runs import LogsRun
from videor2_rl.evaluation.judged import NOT_ASKED
from videor2_rl.evaluation.log_results import evaluate_row
from videor2_rl.evaluation.log_rows import as_paper_row, listed_options, logged_score, whole_response
from videor2_rl.evaluation.log_run import run_logs
from videor2_rl.evaluation.logs import read_logs
from videor2_rl.evaluation.official.cases import CASES

RESPONSE = "<think>At 00:05 the lamp turns green. So the answer is B.</think><answer>B</answer>"
LINES = ["A. red", "B. green", "C. blue", "D. grey"]
CHOICES = ["red", "green", "blue", "grey"]
PROMPT = "Which colour has the lamp?\n" + "\n".join(LINES) + "\nThe best answer is:"
BRACKETS = "Question:Which colour has the lamp?\nOption:\n(A) red\n(B) green\n(C) blue\n(D) grey\nOnly give the letter."
VSI = {
    "id": 7,
    "dataset": "arkit",
    "scene_name": "s",
    "question_type": "object_rel_distance",
    "question": "Which is the closest?",
    "options": LINES,
    "ground_truth": "B",
}
TEMPORAL = {"video_id": "1", "dim": "action"}


def rating(question: str, answer: str, prediction: str, value: int) -> dict[str, Any]:
    """TempCompass' score dict."""
    told = {"question": question, "gt-answer": answer, "video-llm-prediction": prediction}
    return {**TEMPORAL, **told, "match_success": True, "rating": value}


# File name -> doc, prompt, target and score dict.
TODAY: dict[str, tuple[dict[str, Any], str, str, dict[str, Any]]] = {
    "videomme": (
        {"question": "Which?", "options": LINES, "answer": "B", "videoID": "v"},
        PROMPT,
        "B",
        {"videomme_perception_score": {"question_id": "1", "pred_answer": "B", "answer": "B", "score": 1.0}},
    ),
    "mvbench_action_count": (
        {"video": "v.mp4", "question": "Which?", "candidates": CHOICES, "answer": "green"},
        BRACKETS,
        "green",
        {"mvbench_accuracy": {"pred_answer": "B", "gt_answer": "B", "score": 1}},
    ),
    "mlvu_dev": (
        {"question": "Which?\n(A) red\n(B) green\n(C) blue", "task_type": "count", "answer": "B"},
        "Which?\n(A) red\n(B) green\n(C) blue\nBest option: (",
        "B",
        {"mlvu_percetion_score": {"question_id": "Which?", "pred_answer": "B", "answer": "B"}},
    ),
    "longvideobench_val_v": (
        {"id": "x", "question": "Which?", "option0": "red", "option1": "green", "option2": "N/A", "correct_choice": 1},
        PROMPT,
        "1",
        {"lvb_acc": {"id": "x", "answer": "B", "parsed_pred": "B"}, "submission": {"x": "<answer>B</answer>"}},
    ),
    "videomathqa_mcq": (
        {"question": "Which?", "options": LINES, "answer": "B"},
        PROMPT,
        "B",
        {"videomathqa_perception_score": {"pred_answer": "B", "answer": "B"}},
    ),
    "video_mmmu_perception": (
        {
            "id": "new_Math_1",
            "question": "Which?",
            "options": CHOICES,
            "answer": "B",
            "question_type": "multiple-choice",
        },
        PROMPT,
        "B",
        {"mmmu_acc": {"id": "new_Math_1", "subdomain": "Math", "answer": "B", "parsed_pred": "B"}},
    ),
    "mmvu_val": (
        {
            "id": "val_1",
            "question": "Which?",
            "question_type": "multiple-choice",
            "choices": dict(zip("ABCD", CHOICES, strict=True)),
            "answer": "B",
        },
        PROMPT,
        "B",
        {"accuracy": {"question_id": "val_1", "pred_answer": "B", "answer": "B", "correct": 1, "eval_method": "rule"}},
    ),
    "vsibench": (VSI, PROMPT, "B", {"vsibench_overall": {**VSI, "prediction": "B"}, "object_rel_distance": VSI}),
    "minerva": (
        {"key": "k", "question": "Which?", **{f"answer_choice_{i}": c for i, c in enumerate(CHOICES)}, "answer_id": 1},
        PROMPT,
        "B",
        {"minerva_acc": {"id": "k", "pred_answer": "B", "answer": "B", "score": 1.0}},
    ),
    "scivideobench": (
        {"video_id": "v", "question": "Which?", "options": dict(zip("ABCD", CHOICES, strict=True)), "answer": "B"},
        PROMPT,
        "B",
        {"scivideobench_acc": {"id": "v", "pred_answer": "B", "answer": "B", "correct": True}},
    ),
    "tempcompass_multi_choice": (
        {**TEMPORAL, "question": "Which?\nA. red\nB. green", "answer": "B. green"},
        "Which?\nA. red\nB. green\nPlease directly give the best option:",
        "B. green",
        {"avg_accuracy": rating("Which?\nA. red\nB. green", "B. green", "B", 1), "action_accuracy": {"rating": 1}},
    ),
}
WITHOUT_THOUGHT: dict[str, dict[str, Any]] = {
    "today": {"resps": [RESPONSE], "filtered_resps": "<answer>B</answer>"},
    "nested": {"resps": [[RESPONSE]], "filtered_resps": ["<answer>B</answer>"]},
    "only a letter": {"resps": [RESPONSE], "filtered_resps": "B"},
    "nothing": {"resps": [RESPONSE], "filtered_resps": ""},
    "template": {"resps": [RESPONSE.removeprefix("<think>")], "filtered_resps": "<answer>B</answer>"},
    "template, not stripped": {"filtered_resps": RESPONSE.removeprefix("<think>")},
    "kept": {"filtered_resps": RESPONSE},
    "repeats": {"resps": [[RESPONSE, RESPONSE]], "filtered_resps": [["<answer>B</answer>", "<answer>B</answer>"]]},
}


def evaluated(folder: Path, files: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """summary.json of some logs."""
    (folder / "logs").mkdir()
    for name, rows in files.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "logs" / f"20260801_120000_samples_{name}.jsonl").write_text(text)
    run = LogsRun(
        logs=str(folder / "logs"),
        seed=0,
        output_dir=str(folder / "out"),
        bootstrap_resamples=10,
        vas_prompt="default",
        mixer_alpha=0.7,
        mixer_gamma=2.0,
        judge=RulesJudge("rules", "rules"),
    )
    run_logs(run)
    summary: dict[str, Any] = json.loads((folder / "out/summary.json").read_text())
    return summary


@pytest.mark.parametrize("form", WITHOUT_THOUGHT)
@pytest.mark.parametrize("has_doc", [True, False])
@pytest.mark.parametrize("name", TODAY)
def test_a_row_is_read_whole_whatever_became_of_its_thought_and_its_doc(name: str, has_doc: bool, form: str) -> None:
    doc, prompt, target, score = TODAY[name]
    row = {"doc_id": 0, "target": target, "input": prompt, "doc_hash": "h", **WITHOUT_THOUGHT[form], **score}
    benchmark = next(key for key in CASES if name.startswith(key))
    case = CASES[benchmark](as_paper_row({**row, "doc": doc} if has_doc else row, benchmark))
    result = evaluate_row(row, case, NOT_ASKED)
    assert (result.think_status, result.answer_status) == ("read", "read"), case
    assert (result.consistency.think_right, result.consistency.answer_right) == (1.0, 1.0), case
    assert result.logged_score == 1.0, case


def tempcompass_row(question: str, truth: str, response: str, *, rated: int = 1, said: str = "") -> dict[str, Any]:
    doc = {**TEMPORAL, "question": question, "answer": truth}
    score = {"avg_accuracy": rating(question, truth, said, rated)}
    return {"doc_id": 0, "doc": doc, "target": truth, "input": question, "filtered_resps": response, **score}


@pytest.mark.parametrize(
    ("truth", "concluded", "answered", "think_right", "answer_right"),
    [
        ("yes", "yes", "Yes.", 1.0, 1.0),
        ("no", "no", "no", 1.0, 1.0),
        ("No", "no", "No, it stays dark.", 1.0, 1.0),
        ("yes", "yes", "no", 1.0, 0.0),
        ("no", "yes", "no", 0.0, 1.0),
        ("no", "yes", "yes", 0.0, 0.0),
    ],
)
def test_yes_and_no_are_answers(
    truth: str, concluded: str, answered: str, think_right: float, answer_right: float
) -> None:
    response = f"<think>The lamp. So the answer is {concluded}.</think><answer>{answered}</answer>"
    row = tempcompass_row("Does the lamp light up?", truth, response, rated=int(answer_right), said=answered)
    result = evaluate_row(row, CASES["tempcompass"](as_paper_row(row, "tempcompass")), NOT_ASKED)
    assert (result.consistency.think_right, result.consistency.answer_right) == (think_right, answer_right)
    assert result.consistency.same_answer == float(concluded == answered.lower().strip(".").split(",")[0])
    assert result.logged_score == answer_right


def test_a_matched_caption_is_an_answer_and_a_caption_of_ones_own_is_none(tmp_path: Path) -> None:
    question = "Which fits better?\nOption 1: The man dribbles a ball.\nOption 2: The man dunks a ball."
    response = "<think>He jumps. So the answer is: The man dunks a ball.</think><answer>The man dunks a ball.</answer>"
    matched = tempcompass_row(question, "Option 2: The man dunks a ball.", response, said="Option 2")
    wrong = {**matched, "avg_accuracy": {**matched["avg_accuracy"], "rating": 0, "video-llm-prediction": "Option 1"}}
    caption = tempcompass_row("Describe it.", "", "<think>t</think><answer>A ball.</answer>")
    caption["doc"]["mc_answer"] = "A. dunking"
    summary = evaluated(
        tmp_path, {"tempcompass_caption_matching": [matched, wrong], "tempcompass_captioning": [caption]}
    )
    assert (summary["num_samples"], summary["overall"]["logged_accuracy"]["mean"]) == (2, 0.5)
    assert summary["overall"]["tac"]["answer_accuracy"]["mean"] == summary["overall"]["tac"]["agreement"]["mean"] == 1.0
    (left,) = summary["left_out"]["which"]
    assert left["line"] == 1 and "captioning" in left["detail"]


@pytest.mark.parametrize(
    ("score", "accuracy"),
    [
        ({"videomme_acc": {"pred_answer": "A", "answer": "B"}}, 0.0),
        ({"videomme_acc": {"parsed_pred": "B"}}, 1.0),
        ({"my_score": {"prediction": "B"}, "other": {"x": 1}}, 1.0),
        ({"videomme_perception_score": {"pred_answer": "", "answer": "B"}}, 0.0),  # No answer is a wrong one.
        ({"exact_match": 0.0}, None),
        ({"videomme_acc": {"score": 0.0}}, None),
        ({}, None),
    ],
)
def test_a_score_of_another_name_is_read_or_left_out(
    score: dict[str, Any], accuracy: float | None, tmp_path: Path
) -> None:
    doc, prompt, target, _ = TODAY["videomme"]
    row = {"doc": doc, "input": prompt, "target": target, "filtered_resps": [RESPONSE], **score}
    overall = evaluated(tmp_path, {"videomme": [row]})["overall"]
    assert overall["logged_accuracy"]["mean"] == accuracy
    assert overall["logged_accuracy"]["num_unscored"] == int(accuracy is None)
    assert overall["tac"]["agreement"]["mean"] == 1.0


def test_a_response_that_has_its_thought_is_taken_as_it_is() -> None:
    assert whole_response({"filtered_resps": [RESPONSE], "resps": [["<think>other</think>"]]}) is None
    assert whole_response({"filtered_resps": ["<answer>B</answer>"], "resps": [["<answer>B</answer>"]]}) is None
    assert whole_response({"filtered_resps": ["B"], "resps": [["<think>cut off"]]}) is None
    # The paper's own reading of a row without a filtered response.
    assert whole_response({"filtered_resps": None, "resps": [[RESPONSE]]}) is None
    doc, prompt, target, score = TODAY["mlvu_dev"]
    row = {"doc": doc, "input": prompt, "target": target, "resps": [[RESPONSE]], "filtered_resps": [RESPONSE], **score}
    assert as_paper_row(row, "mlvu") is row


def test_options_are_the_last_lettered_list_of_a_prompt() -> None:
    assert listed_options("Pick one.\n" + PROMPT) == CHOICES
    assert listed_options(BRACKETS) == CHOICES
    assert listed_options("A. first\nB. list\nWhich?\nA. red\nB. green") == ["red", "green"]
    assert listed_options("Which?\nOption 1: The man.\nOption 2: A man.") == ["The man.", "A man."]
    assert listed_options("A. Smith asks: which?\nB") == listed_options("Which one is it?") == []


def test_a_score_dict_is_found_by_what_it_holds() -> None:
    assert logged_score({"doc": {"prediction": "B"}, "judge": {"prediction": "B"}}, "mlvu") is None
    assert logged_score({"x": {"prediction": "B"}}, "longvideobench") == {"prediction": "B", "parsed_pred": "B"}
    known = {"minerva_acc": {"pred_answer": "A"}, "minerva_perception_score": {"pred_answer": "B"}}
    assert logged_score(known, "minerva") == {"pred_answer": "B"}


def read_rows(folder: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in (folder / "out/readings.jsonl").read_text(encoding="utf-8").split("\n") if line
    ]


def test_a_torn_line_a_bad_row_and_an_unknown_log_are_left_out_counted_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    doc, prompt, target, score = TODAY["videomme"]
    row = {"doc": doc, "input": prompt, "target": target, "filtered_resps": [RESPONSE], **score}
    files = {"videomme": [row, {**row, "doc": 5}, row, {**row, "judge": {"think": 3}}], "egoschema": [{"doc": {}}]}
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/a_samples_mlvu.jsonl").write_text("[1]\n\n{torn")
    (tmp_path / "logs/b_samples_mvbench.jsonl").write_text("")
    for name, rows in files.items():
        text = "".join(json.dumps(each) + "\n" for each in rows)
        (tmp_path / f"logs/c_samples_{name}.jsonl").write_text(text + (text[:40] if name == "videomme" else ""))
    run = LogsRun(
        str(tmp_path / "logs"), 0, str(tmp_path / "out"), 10, "default", 0.7, 2.0, RulesJudge("rules", "rules")
    )
    run_logs(run)
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert (summary["num_samples"], summary["overall"]["tac"]["agreement"]["num_scored"]) == (2, 2)
    left = summary["left_out"]
    assert (left["num_files"], left["num_rows"], sum(left["reasons"].values())) == (1, 5, 6)
    places = {(Path(each["file"]).name, each["line"]) for each in left["which"]}
    assert places == {
        ("a_samples_mlvu.jsonl", 1),
        ("a_samples_mlvu.jsonl", 3),
        ("c_samples_egoschema.jsonl", None),
        ("c_samples_videomme.jsonl", 2),
        ("c_samples_videomme.jsonl", 4),
        ("c_samples_videomme.jsonl", 5),
    }
    assert [row["line"] for row in read_rows(tmp_path)] == [1, 3]
    for name in ("a_samples_mlvu", "c_samples_egoschema", "c_samples_videomme"):
        assert name in caplog.text
    assert "and 1 further rows" in caplog.text


def test_a_mark_of_the_byte_order_and_a_lone_surrogate_are_read(tmp_path: Path) -> None:
    doc, prompt, target, score = TODAY["videomme"]
    odd = RESPONSE.replace("lamp", "lamp \ud83d \u2028 \x85")
    row = {"doc": doc, "input": prompt + "\ud83d", "target": target, "resps": [odd], "filtered_resps": "B", **score}
    row["judge"] = {"think": '{"answer": "B"}', "answer": '{"answer": "B \ud83d"}', "vas": '{"score": 3}'}
    (tmp_path / "logs").mkdir()
    text = json.dumps(row) + "\r\n" + json.dumps({**row, "resps": [RESPONSE + "\u2028"]}, ensure_ascii=True) + "\r\n"
    (tmp_path / "logs/samples_videomme.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode())
    run = LogsRun(
        str(tmp_path / "logs"), 0, str(tmp_path / "out"), 10, "default", 0.7, 2.0, RulesJudge("rules", "rules")
    )
    run_logs(run)
    summary = json.loads((tmp_path / "out/summary.json").read_text(encoding="utf-8"))
    assert (summary["num_samples"], summary["left_out"]["num_rows"]) == (2, 0)
    first, _ = read_rows(tmp_path)
    assert first["judge"]["answer"]["text"] == '{"answer": "B \ud83d"}'


MMMU = {"id": "validation_Math_1", "subdomain": "Math", "question_type": "multiple-choice", "answer": "B"}


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("mmmu_val", {"doc": {"id": "validation_Math_1", "options": "[]"}, "mmmu_acc": {**MMMU, "parsed_pred": "B"}}),
        ("lsdbench", {"doc": {"question": "q"}, "accuracy": {"video_id": "v", "pred_answer": "A", "answer": "A"}}),
        ("mp_docvqa", {"accuracy": {"questionId": 1, "pred_answer": "a", "answer": "a", "correct": 1}}),
        ("perceptiontest_val_mc", {"accuracy": {"video_name": "v", "pred_id": 1, "answer_id": "1", "correct": 1}}),
        ("vitatecs", {"avg_accuracy": {"gt-answer": "A", "video-llm-prediction": "A", "rating": 1}}),
        ("minerva_math_algebra", {"doc": {"problem": "p"}, "exact_match": 1}),
        ("videomme_v2", {"videomme_v2_overall_score": {"pred_answer": "A"}}),
        ("egomvbench", {"accuracy": {"pred_answer": "A"}}),
        ("xvsibenchmark", {"x": 1, "benchmark": ["mlvu"]}),
    ],
)
def test_another_benchmark_is_never_taken_for_one_of_these(name: str, row: dict[str, Any], tmp_path: Path) -> None:
    doc, prompt, target, score = TODAY["videomme"]
    known = {"doc": doc, "input": prompt, "target": target, "filtered_resps": [RESPONSE], **score}
    other = {"input": prompt, "target": "B", "filtered_resps": [RESPONSE], **row}
    summary = evaluated(tmp_path, {"videomme": [known], name: [other]})
    assert list(summary["benchmarks"]) == ["videomme"] and summary["num_samples"] == 1
    assert summary["left_out"]["num_files"] == 1


@pytest.mark.parametrize("name", TODAY)
def test_each_task_is_known_by_its_files_name_and_most_by_their_score(name: str, tmp_path: Path) -> None:
    doc, prompt, target, score = TODAY[name]
    row = {"doc": doc, "input": prompt, "target": target, "filtered_resps": [RESPONSE], **score}
    benchmark = next(key for key in CASES if name.startswith(key))
    for file in (f"2026_samples_{name}.jsonl", "x_samples.jsonl"):
        (tmp_path / file).write_text(json.dumps(row) + "\n")
    logs = read_logs(tmp_path)
    found = [log.benchmark for log in logs.files]
    # Video-MMMU's score dict is MMMU's too.
    assert found == [benchmark] * (1 if benchmark == "video_mmmu" else 2)


def test_the_mixers_weight_and_exponent_are_options(tmp_path: Path) -> None:
    doc, prompt, target, score = TODAY["videomme"]
    right = {"doc": doc, "input": prompt, "target": target, "filtered_resps": [RESPONSE], **score}
    wrong = {**right, "filtered_resps": ["<think>So the answer is B.</think><answer>A</answer>"]}
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/samples_videomme.jsonl").write_text(json.dumps(right) + "\n" + json.dumps(wrong) + "\n")
    run = LogsRun(
        str(tmp_path / "logs"), 0, str(tmp_path / "out"), 10, "default", 0.2, 3.0, RulesJudge("rules", "rules")
    )
    run_logs(run)
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    # Agreement 1/2: 0.2 (1 - 1/8) + 0.8 (1 - 1/2); the think blocks are the righter ones.
    assert summary["overall"]["tac"]["mixed_disagreement"] == pytest.approx(0.2 * 0.875 + 0.8 * 0.5)
    official = summary["official"]["tac"]["overall"]
    assert official["average_mixer_magnitude"] == pytest.approx(0.575)
    assert official["mixer_hyperparams"] == {"alpha": 0.2, "gamma": 3.0}
    assert summary["card"]["mixer"] == {"alpha": 0.2, "gamma": 3.0}


def test_what_evaluate_wrote_about_a_benchmark_says_so(tmp_path: Path) -> None:
    doc, prompt, target, score = TODAY["video_mmmu_perception"]
    row = {
        "doc": doc,
        "input": prompt,
        "target": target,
        "filtered_resps": [RESPONSE],
        **score,
        "benchmark": "video_mmmu",
    }
    (tmp_path / "samples.jsonl").write_text(json.dumps(row) + "\n")
    assert [log.benchmark for log in read_logs(tmp_path).files] == ["video_mmmu"]
