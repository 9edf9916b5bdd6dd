"""A row of lmms-eval's `samples_*.jsonl` -> what the paper's script of its benchmark takes from it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from videor2_rl.evaluation.official.reading import (
    BRACKETED,
    PLAIN,
    Letters,
    amount,
    find_letter,
    first_text,
    last_blocks,
    letter_of_text,
    measure,
    open_answers_match,
    plain_text,
    response_text,
    split_options,
    texts_match,
    vsi_letter,
)

Row = Mapping[str, Any]

VSI_CHOICE_TYPES = (
    "object_rel_direction_easy",
    "object_rel_direction_medium",
    "object_rel_direction_hard",
    "object_rel_distance",
    "route_planning",
    "obj_appearance_order",
)
VSI_NUMBER_TYPES = ("object_abs_distance", "object_counting", "object_size_estimation", "room_size_estimation")


@dataclass(frozen=True)
class Case:
    """One logged response and what it is compared with."""

    kind: Literal["letter", "open", "vsi_letter", "vsi_number"]
    letters: Letters
    doc_id: Any
    question: str
    options: tuple[str, ...]
    truth: Any
    """The right letter, text or number; None or "" where the row has none."""
    response: str
    think: str
    """The last think block, "" where there is none."""
    answer: str
    """The last answer block, "" where there is none."""
    logged: Any
    """lmms-eval's own prediction, as the row has it."""
    logged_prediction: Any
    """The same, as a letter, text or number."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of per_sample.json."""


def _case(row: Row, *, letters: Letters, question: str, **parts: Any) -> Case:
    response = parts.pop("response", None)
    if response is None:
        response = response_text(dict(row))
    think, answer = last_blocks(response)
    return Case(
        letters=letters,
        doc_id=parts.pop("doc_id", row.get("doc_id")),
        question=question,
        response=response,
        think=think,
        answer=answer,
        **parts,
    )


def _letter_case(row: Row, prediction: str | None, **parts: Any) -> Case:
    """A multiple-choice question of a benchmark whose logged prediction is a letter."""
    return _case(row, kind="letter", logged=prediction, logged_prediction=prediction, **parts)


def _doc(row: Row) -> Mapping[str, Any]:
    return row.get("doc") or {}


def _question(row: Row) -> str:
    return _doc(row).get("question") or row.get("input") or ""


def _true_letter(row: Row) -> str:
    return (_doc(row).get("answer") or row.get("target") or "").strip().upper()


def _logged_letter(row: Row, score_key: str, field_name: str = "pred_answer") -> str | None:
    return ((row.get(score_key) or {}).get(field_name) or "").strip().upper() or None


def _meta(row: Row, *names: str) -> dict[str, Any]:
    return {name: _doc(row).get(name) for name in names}


def mvbench(row: Row) -> Case:
    score = row.get("mvbench_accuracy") or {}
    options = tuple(str(option) for option in _doc(row).get("candidates") or [])
    truth = (score.get("gt_answer") or "").strip().upper() or letter_of_text(_doc(row).get("answer"), options)
    prediction = find_letter(score.get("pred_answer", ""), len(options), BRACKETED)
    return _letter_case(
        row,
        prediction,
        letters=BRACKETED,
        question=_question(row),
        options=options,
        truth=truth or "",
        extra={"meta": _meta(row, "video")},
    )


def longvideobench(row: Row) -> Case:
    doc = _doc(row)
    texts = [
        str(doc[key]).strip() for key in (f"option{index}" for index in range(5)) if doc.get(key) not in (None, "")
    ]
    options = tuple(text for text in texts if text.upper() != "N/A")
    choice = doc.get("correct_choice")
    index = int(choice) if isinstance(choice, int) or (isinstance(choice, str) and choice.isdecimal()) else -1
    truth = chr(ord("A") + index) if 0 <= index < len(options) else _logged_letter(row, "lvb_acc", "answer")
    prediction = _logged_letter(row, "lvb_acc", "parsed_pred")
    meta = {
        "video_id": doc.get("video_id"),
        "clip_id": doc.get("id"),
        **_meta(row, "video_path", "subtitle_path", "question_category", "topic_category", "duration"),
        "duration_group": doc.get("duration_group"),
        "start_ts_for_subs": doc.get("starting_timestamp_for_subtitles"),
    }
    return _letter_case(
        row,
        prediction,
        letters=BRACKETED,
        question=_question(row),
        options=options,
        truth=truth or "",
        extra={"meta": meta},
    )


def mlvu(row: Row) -> Case:
    question = _question(row).strip()
    options = [str(option) for option in _doc(row).get("candidates") or []]
    if not options:
        lines = [line.strip() for line in question.splitlines() if line.strip()]
        options = [re.sub(r"^\(?[A-Da-d]\)?[.):]\s*", "", line).strip() for line in lines[1:5]]
    prediction = _logged_letter(row, "mlvu_percetion_score")
    return _letter_case(
        row,
        prediction,
        letters=BRACKETED,
        question=question,
        options=tuple(options),
        truth=_true_letter(row),
        extra={"meta": _meta(row, "video_name", "task_type", "question_id", "duration")},
    )


def _listed(row: Row, prediction: str | None, letters: Letters, question: str, meta: Mapping[str, Any] | None) -> Case:
    """A benchmark whose `options` are lines such as "A. red"."""
    names, texts = split_options(list(_doc(row).get("options") or []), letters)
    return _letter_case(
        row,
        prediction,
        letters=letters,
        question=question,
        options=tuple(texts),
        truth=_true_letter(row),
        extra={"option_letters": names} | ({} if meta is None else {"meta": dict(meta)}),
    )


def videomme(row: Row) -> Case:
    key = "videomme_perception_score" if row.get("videomme_perception_score") else "minerva_perception_score"
    doc = _doc(row)
    meta = {
        "doc_id": row.get("doc_id"),
        "video_id": doc.get("video_id") or doc.get("videoID"),
        **_meta(row, "videoID", "url", "question_id", "domain", "category", "sub_category", "task_type", "length"),
        "duration": doc.get("duration"),
    }
    return _listed(row, _logged_letter(row, key), BRACKETED, _question(row), meta)


def minerva(row: Row) -> Case:
    meta = _meta(row, "videoID", "question_id", "category", "length", "duration")
    return _listed(row, _logged_letter(row, "minerva_perception_score"), BRACKETED, _question(row), meta)


def tempcompass(row: Row) -> Case:
    prediction = _logged_letter(row, "tempcompass_perception_score")
    return _listed(row, prediction, PLAIN, _question(row), _meta(row, "uuid", "video_id"))


def videomathqa(row: Row) -> Case:
    prediction = _logged_letter(row, "videomathqa_perception_score")
    return _listed(row, prediction, PLAIN, _doc(row).get("question") or "", None)


def _mapped_options(options: Mapping[Any, Any]) -> tuple[str, ...]:
    return tuple(
        options[key] for key in sorted(options) if isinstance(key, str) and len(key) == 1 and "A" <= key <= "Z"
    )


def scivideobench(row: Row) -> Case:
    options = _doc(row).get("options") or {}
    filtered, responses = row.get("filtered_resps"), row.get("resps")
    if isinstance(filtered, str):
        response = filtered
    elif isinstance(filtered, list) and filtered:
        response = first_text(filtered)
    elif isinstance(responses, str):
        response = responses
    else:
        # A list in `resps` is not looked at.
        raw = (row.get("scivideobench_acc") or {}).get("raw_output")
        response = raw if isinstance(raw, str) else ""
    prediction = _logged_letter(row, "scivideobench_acc")
    return _letter_case(
        row,
        prediction,
        letters=PLAIN,
        question=_doc(row).get("question") or "",
        response=response,
        options=_mapped_options(options),
        truth=_true_letter(row),
        extra={"options_map": dict(options), "meta": _meta(row, "question_type", "discipline", "subject", "category")},
    )


def mmvu(row: Row) -> Case:
    doc = _doc(row)
    choices = doc.get("choices") or {}
    options = _mapped_options(choices) if isinstance(choices, Mapping) else ()
    is_choice = (doc.get("question_type") or "").lower() == "multiple-choice" or bool(doc.get("choices"))
    truth = doc.get("answer") or row.get("target")
    logged = (row.get("accuracy") or {}).get("pred_answer") or (row.get("mmmu_acc") or {}).get("parsed_pred")
    return _case(
        row,
        letters=PLAIN,
        question=_question(row),
        kind="letter" if is_choice else "open",
        options=options,
        truth=(truth or "").strip() if is_choice else truth,
        logged=logged,
        logged_prediction=_best_letter(logged, options) if is_choice else _best_text(logged),
        extra={
            "doc": doc.get("id"),
            "input": row.get("input", ""),
            "options_map": choices if isinstance(choices, Mapping) else None,
        },
    )


def video_mmmu(row: Row) -> Case:
    doc = _doc(row)
    options = doc.get("options") or []
    is_choice = isinstance(options, list) and bool(options)
    truth = doc.get("answer") or row.get("target")
    # Only lists count here: a plain text in filtered_resps is no response.
    responses = row.get("filtered_resps") or row.get("resps")
    logged = (row.get("mmmu_acc") or {}).get("parsed_pred")
    return _case(
        row,
        letters=PLAIN,
        question=_question(row),
        response=first_text(responses) if isinstance(responses, list) else "",
        kind="letter" if is_choice else "open",
        options=tuple(options),
        truth=_video_mmmu_letter("" if truth is None else str(truth), options) if is_choice else truth,
        logged=logged,
        logged_prediction=_best_letter(logged, options) if is_choice else _best_text(logged),
        extra={"doc": doc.get("id"), "input": row.get("input", ""), "ground_truth": truth},
    )


def _video_mmmu_letter(truth: str, options: Sequence[str]) -> str | None:
    letter = find_letter(truth, len(options), PLAIN)
    plain = plain_text(truth)
    return letter or next((chr(ord("A") + i) for i, text in enumerate(options) if texts_match(plain, text)), None)


def _candidates(logged: Any) -> list[str]:
    """lmms-eval's prediction, which may be a list of candidates."""
    if logged is None:
        return []
    return [str(item) for item in logged] if isinstance(logged, list) else [str(logged)]


def _best_letter(logged: Any, options: Sequence[str]) -> str | None:
    """The last candidate with a letter in it, else the option whose text one of them names."""
    if not options:
        return None
    texts = _candidates(logged)[::-1]
    found = (letter for text in texts if (letter := find_letter(text, len(options), PLAIN)))
    named = (chr(ord("A") + i) for text in texts for i, option in enumerate(options) if texts_match(text, option))
    return next(found, None) or next(named, None)


def _best_text(logged: Any) -> str | None:
    """The first candidate with a number in it, else the last one."""
    texts = _candidates(logged)
    return next((text for text in texts if amount(text) is not None), texts[-1] if texts else None)


def vsibench(row: Row) -> Case:
    doc = _doc(row)
    kind = doc.get("question_type")
    options = tuple(doc.get("options") or [])
    truth = doc.get("ground_truth") or row.get("target")
    text = "" if truth is None else str(truth)
    score = row.get("vsibench_score")
    logged = score.get("prediction") if isinstance(score, Mapping) else None
    logged = doc.get("prediction") if logged is None else logged
    is_choice = kind in VSI_CHOICE_TYPES
    leading = re.match(r"\s*([A-Da-d])", text)
    return _case(
        row,
        letters=PLAIN,
        question=_question(row),
        # A sample numbered 0 loses its number to the next name that has one.
        doc_id=row.get("doc_id") or row.get("id") or doc.get("id"),
        kind="vsi_letter" if is_choice else "vsi_number",
        options=options,
        truth=(leading[1].upper() if leading else None) if is_choice else vsi_float(text),
        logged=logged,
        logged_prediction=vsi_letter(str(logged or ""), options) if is_choice else vsi_float(logged),
        extra={
            "ground_truth": text,
            "question_type": kind,
            "meta": _meta(row, "dataset", "scene_name", "question_type"),
        },
    )


def vsi_float(value: Any) -> float | None:
    """A number, or the first one in a text."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None if value is None else measure(str(value))


CASES: Mapping[str, Callable[[Row], Case]] = MappingProxyType(
    {
        "longvideobench": longvideobench,
        "minerva": minerva,
        "mlvu": mlvu,
        "mmvu": mmvu,
        "mvbench": mvbench,
        "scivideobench": scivideobench,
        "tempcompass": tempcompass,
        "video_mmmu": video_mmmu,
        "videomathqa": videomathqa,
        "vsibench": vsibench,
        "videomme": videomme,
    }
)
"""By name, in the order in which the paper's scripts look for the name in a file's."""


def answer_matches(case: Case, prediction: Any) -> bool:
    """Whether a letter or an open answer is right; a missing prediction or truth never is."""
    if case.kind == "open":
        return open_answers_match(prediction or "", str(case.truth))
    return bool(prediction) and bool(case.truth) and prediction.strip().upper() == case.truth.strip().upper()
