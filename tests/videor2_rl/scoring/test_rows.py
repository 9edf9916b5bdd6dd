from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rewards.types import Context, JudgeReply
from videor2_rl.config.errors import ConfigError
from videor2_rl.scoring.rows import BadRow, ScoreRow, count_rows, input_files, read_rows, run_of

ROW = {"id": "a", "response": "<think>x</think><answer>B</answer>", "solution": "B"}


def read(tmp_path: Path, *lines: str) -> list[ScoreRow | BadRow]:
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return [row for rows in read_rows(path) for row in rows]


def read_one(tmp_path: Path, **changes: Any) -> ScoreRow | BadRow:
    [row] = read(tmp_path, json.dumps({**ROW, **changes}))
    return row


def test_three_fields_are_enough(tmp_path: Path) -> None:
    row = read_one(tmp_path)
    assert isinstance(row, ScoreRow)
    assert (row.id, row.target.question, row.target.options, row.target.temporal_grounding) == ("a", "", (), None)
    assert (row.evidence.claims, row.evidence.judge, row.similarity) == (None, {}, {})


@pytest.mark.parametrize(
    "options",
    [["red", "blue"], ["A. red", "B. blue"], ["(A) red", "(B) blue"], ["A) red", "B) blue"], "A. red B. blue"],
)
def test_options_may_carry_their_letters(options: Any, tmp_path: Path) -> None:
    row = read_one(tmp_path, options=options)
    assert isinstance(row, ScoreRow) and row.target.options == ("red", "blue")


def test_letters_that_are_no_marks_stay(tmp_path: Path) -> None:
    for options in (["B. Lugosi", "A. Hitchcock"], ["B. Lugosi", "C. Chaplin"], ["A. Hitchcock", "red"]):
        row = read_one(tmp_path, options=options)
        assert isinstance(row, ScoreRow) and row.target.options == tuple(options)


def test_a_number_is_a_solution_and_a_null_sentence_is_empty(tmp_path: Path) -> None:
    row = read_one(tmp_path, solution=5, temporal_grounding={"00:05": None, "00:06": "x"})
    assert isinstance(row, ScoreRow)
    assert row.target.solution == "5"
    assert row.target.temporal_grounding == {"00:05": "", "00:06": "x"}


def test_a_null_reply_is_a_call_that_failed(tmp_path: Path) -> None:
    row = read_one(tmp_path, judge={"claims": "{}", "consistency": None})
    assert isinstance(row, ScoreRow)
    assert row.evidence.judge["claims"] == JudgeReply("{}", None)
    assert row.evidence.judge["consistency"].text is None and row.evidence.judge["consistency"].failure


def test_claims_stay_as_messy_as_they_are(tmp_path: Path) -> None:
    claims = {"from 5 to 8": "x", "later": None, "00:05": 3}
    row = read_one(tmp_path, claims=claims)
    assert isinstance(row, ScoreRow) and row.evidence.claims == claims


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": None}, "id is None, expected a text or a whole number; mend it"),
        ({"response": ["x"]}, "response is ['x'], expected a text; mend it"),
        ({"solution": {}}, "solution is {}, expected a text; mend it"),
        ({"question": 3}, "question is 3, expected a text; mend it"),
        ({"options": [1]}, "options is [1], expected a list of texts; mend it"),
        ({"options": "red or blue"}, "options is 'red or blue', expected a list of texts, or a text like"),
        ({"temporal_grounding": []}, "temporal_grounding is [], expected a map; mend it"),
        ({"temporal_grounding": {"5": 1}}, "temporal_grounding, '5': is 1, expected a sentence; mend it"),
        ({"claims": "x"}, "claims is 'x', expected a map; mend it"),
        ({"judge": {"claims": {}}}, "judge, 'claims': is {}, expected the judge's raw reply or null; mend it"),
        ({"similarity": {"a": 1}}, "similarity, 'a': is 1, expected a map reference -> cosine"),
        ({"similarity": {"a": {"b": "c"}}}, "similarity, 'a' -> 'b': is 'c', expected a cosine; mend it, or leave"),
        ({"similarity": {"a": {"b": True}}}, "similarity, 'a' -> 'b': is True"),
    ],
)
def test_a_bad_field_is_named_with_file_row_and_mend(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    row = read_one(tmp_path, **changes)
    assert isinstance(row, BadRow)
    assert row.message.startswith(f"{tmp_path / 'in.jsonl'}, row 1: {message}")


def test_bad_lines_do_not_hide_the_others(tmp_path: Path) -> None:
    rows = read(tmp_path, json.dumps(ROW), "{", "", "[1]", '{"id": 1}', json.dumps(ROW), "[" * 100_000)
    assert [type(row) for row in rows] == [ScoreRow, BadRow, BadRow, BadRow, ScoreRow, BadRow]
    messages = [row.message for row in rows if isinstance(row, BadRow)]
    assert [message.split("row ")[1][0] for message in messages] == ["2", "4", "5", "7"]
    assert "response is missing; give a text" in messages[2]


def test_numbers_and_texts_beyond_strict_json_are_read(tmp_path: Path) -> None:
    [row] = read(tmp_path, '{"id": 1, "response": "\\ud800", "solution": "B", "similarity": {"a": {"b": NaN}}}')
    assert isinstance(row, ScoreRow) and row.response == "\ud800"


def test_a_rollout_log_has_a_row_for_each_response(tmp_path: Path) -> None:
    record = {
        "group_id": 4,
        "sample_id": "clip-1",
        "question": "Which?",
        "target": "<answer>A</answer>",
        "options": ["red", "blue"],
        "problem_type": None,
        "temporal_grounding": {"00:05": "x"},
        "extra": {"rating": 0.5},
        "responses": [
            {"text": "one", "reward": 1.5, "judge": {"claims": "{}"}, "finish_reason": "length"},
            {"text": "two", "reward": None},
            {"reward": 0.0},
        ],
    }
    path = tmp_path / "step_000010.jsonl"
    path.write_text(json.dumps(record))
    [[first, second, third]] = read_rows(path)
    assert isinstance(first, ScoreRow) and isinstance(second, ScoreRow) and isinstance(third, BadRow)
    assert (first.id, first.response, first.target.solution) == ("step_000010/4/0", "one", "<answer>A</answer>")
    assert first.target.options == ("red", "blue") and first.target.temporal_grounding == {"00:05": "x"}
    assert first.evidence.judge == {"claims": JudgeReply("{}", None)}
    assert (first.passed_on, second.passed_on) == (
        {"sample_id": "clip-1", "logged_reward": 1.5},
        {"sample_id": "clip-1", "logged_reward": None},
    )
    assert "row 1, response 2: response is None" in third.message
    shared = Context("clip-1", {"rating": 0.5}, step=10, group_id=4)
    assert first.context == replace(shared, finish_reason="length", siblings=("two", "None"))
    assert second.context == replace(shared, response_index=1, siblings=("one", "None"))


def test_a_rollout_log_without_responses_is_named(tmp_path: Path) -> None:
    [row] = read(tmp_path, '{"responses": [3]}')
    assert isinstance(row, BadRow) and "responses is no list of objects" in row.message


def test_input_is_a_file_a_run_or_its_rollouts(tmp_path: Path) -> None:
    rollouts = tmp_path / "run" / "rollouts"
    rollouts.mkdir(parents=True)
    files = [rollouts / f"step_{step:06}.jsonl" for step in (1, 2, 3, 7, 8, 9, 10, 20)]
    # In an order that no file system lists them in by itself.
    for place in (4, 1, 6, 0, 7, 2, 5, 3):
        files[place].touch()
    assert input_files(tmp_path / "run") == input_files(rollouts) == files
    assert input_files(files[0]) == [files[0]]
    with pytest.raises(ConfigError, match="does not exist"):
        input_files(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"holds no rollouts/step_\*\.jsonl"):
        input_files(tmp_path)


@pytest.mark.parametrize(("text", "lines"), [("", 0), ("a", 1), ("a\n", 1), ("a\nb", 2)])
def test_lines_are_counted_with_and_without_a_last_break(text: str, lines: int, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text(text)
    assert count_rows(path) == lines


def test_a_rows_other_fields_are_its_own_columns(tmp_path: Path) -> None:
    row = read_one(tmp_path, id=7, question="Which?", rating=0.5, video="clip.mp4")
    assert isinstance(row, ScoreRow)
    assert row.context == Context("7", {"rating": 0.5, "video": "clip.mp4"})


TRAINING_ROW = {
    "video": "clip.mp4",
    "conversations": [
        {"from": "human", "value": "<video>\nWhich? A. red B. blue"},
        {"from": "gpt", "value": "<think>x</think><answer>B</answer>"},
    ],
    "temporal_grounding": {"00:05": "x"},
    "response": "<think>y</think><answer>B</answer>",
    "rating": 0.5,
}


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_a_training_file_is_read_where_its_rows_hold_a_response(suffix: str, tmp_path: Path) -> None:
    rows = [
        TRAINING_ROW,
        {**TRAINING_ROW, "id": 5, "options": ["A. one", "B. two"]},
        {**TRAINING_ROW, "response": None},
    ]
    path = (tmp_path / "clips").with_suffix(suffix)
    path.write_text(json.dumps(rows) if suffix == ".json" else "".join(f"{json.dumps(row)}\n" for row in rows))
    assert count_rows(path) == 3
    [[first], [second], [third]] = read_rows(path)
    assert isinstance(first, ScoreRow) and isinstance(second, ScoreRow) and isinstance(third, BadRow)
    assert (first.id, first.target.question, first.response) == (
        "clips-0",
        "Which? A. red B. blue",
        TRAINING_ROW["response"],
    )
    assert first.target.options == ("red", "blue") and first.target.temporal_grounding == {"00:05": "x"}
    assert first.target.solution == "<think>x</think><answer>B</answer>"
    assert first.context == Context("clips-0", {"rating": 0.5})
    assert (second.id, second.target.options) == ("5", ("one", "two"))
    assert third.message == f"{path}, row 3: response is None, expected a text; mend it"


def test_a_list_of_plain_rows_is_read_and_what_is_no_list_is_named(tmp_path: Path) -> None:
    path = tmp_path / "in.json"
    path.write_text(json.dumps([ROW, 3, {**TRAINING_ROW, "conversations": []}]))
    [[first], [second], [third]] = read_rows(path)
    assert isinstance(first, ScoreRow) and isinstance(second, BadRow) and isinstance(third, BadRow)
    assert f"{path}, row 2: is 3, expected an object" in second.message
    assert f"{path}, row 3: conversations is 0 turns, expected two turns" in third.message
    for text, message in (('{"id": 1}', "holds no list of rows"), ("[", "is not valid JSON")):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            list(read_rows(path))


def test_a_rollout_log_leads_to_the_run_that_wrote_it(tmp_path: Path) -> None:
    rollouts = tmp_path / "run" / "rollouts"
    rollouts.mkdir(parents=True)
    (rollouts / "step_000001.jsonl").touch()
    assert run_of(tmp_path / "run") is None
    (tmp_path / "run" / "config.yaml").touch()
    places = (tmp_path / "run", rollouts, rollouts / "step_000001.jsonl")
    assert [run_of(place) for place in places] == [tmp_path / "run"] * 3
    assert run_of(tmp_path / "in.jsonl") is None
