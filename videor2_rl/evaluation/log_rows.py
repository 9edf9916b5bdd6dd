"""A row of a prediction log as any lmms-eval writes it -> as the paper's lmms-eval does, which the readers know.

What later ones do otherwise: `filtered_resps` may have lost the thought that `resps` still holds, both may be one list
less deep, `doc` may be left out, and some benchmarks have other rows, or score dicts of another name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

from rewards.terms.accuracy import read_answer

Row: TypeAlias = Mapping[str, Any]

SCORE_NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "longvideobench": ("lvb_acc",),
        "minerva": ("minerva_perception_score", "minerva_acc"),
        "mlvu": ("mlvu_percetion_score",),
        "mmvu": ("accuracy", "mmmu_acc"),
        "mvbench": ("mvbench_accuracy",),
        "scivideobench": ("scivideobench_acc",),
        "tempcompass": ("tempcompass_perception_score", "avg_accuracy"),
        "video_mmmu": ("mmmu_acc",),
        "videomathqa": ("videomathqa_perception_score",),
        "videomme": ("videomme_perception_score", "minerva_perception_score"),
        "vsibench": ("vsibench_score", "vsibench_overall"),
    }
)
"""Benchmark -> the score dict of a row, first by the name in the paper's lmms-eval. Misspelt there as here."""

_PREDICTIONS = ("pred_answer", "parsed_pred", "prediction")
"""Where a score dict holds the answer that lmms-eval has read."""
_PREDICTION_OF = MappingProxyType(
    {"longvideobench": "parsed_pred", "video_mmmu": "parsed_pred", "vsibench": "prediction"}
)
"""Of the others it is `pred_answer`."""
_OPTION_LINE = re.compile(
    r"[ \t]*(?:(?:Option|Caption|Sentence|Description)[ \t]+)?\(?([A-Z]|\d{1,2})[.:)]+[ \t]+(\S.*)"
)
_ENDED = re.compile(r"</think>", re.IGNORECASE)
_BEGUN = re.compile(r"<think>", re.IGNORECASE)


def as_paper_row(row: Row, benchmark: str) -> Row:
    """The row with its whole response, a `doc`, and its score dict under the name in the paper's lmms-eval.

    Raises:
        ValueError: it asks for a caption, which has no answer to compare with another.
    """
    changed: dict[str, Any] = {}
    response = whole_response(row)
    if response is not None:
        changed["filtered_resps"] = [response]
    elif isinstance(row.get("filtered_resps"), str) and "resps" not in row:
        changed["filtered_resps"] = [row["filtered_resps"]]
    name, score = SCORE_NAMES[benchmark][0], logged_score(row, benchmark)
    if score is not None and row.get(name) != score:
        changed[name] = score
    doc = row.get("doc")
    if doc is None:
        doc = _doc_of_input(row, benchmark, score or {})
    if benchmark == "minerva" and isinstance(doc, Mapping):
        doc = _with_minerva_options(doc)
    if benchmark == "tempcompass" and isinstance(doc, Mapping):
        doc, score = _tempcompass(row, doc, score)
        if score is not None:
            changed[name] = score
    if doc is not row.get("doc"):
        changed["doc"] = doc
    return {**row, **changed} if changed else row


def whole_response(row: Row) -> str | None:
    """The response where `filtered_resps` is not all of it, or where its thought lacks the tag that a chat template
    has written; None where `filtered_resps` is as the readers want it."""
    filtered = first_text(row.get("filtered_resps"))
    if filtered is None:
        return None
    if not _ENDED.search(filtered):
        whole = first_text(row.get("resps"))
        if whole is None or not _ENDED.search(whole):
            return None
        return _with_beginning(whole)
    opened = _with_beginning(filtered)
    return None if opened == filtered else opened


def first_text(value: Any) -> str | None:
    """The first text of a text or of lists of lists of texts; None where there is none."""
    while isinstance(value, list) and value:
        value = value[0]
    return value if isinstance(value, str) else None


def _with_beginning(response: str) -> str:
    ended = _ENDED.search(response)
    if ended is None or _BEGUN.search(response, 0, ended.start()):
        return response
    return f"<think>{response}"


def logged_score(row: Row, benchmark: str) -> Mapping[str, Any] | None:
    """The score dict of a row, whatever its name; None where the row has none that holds a prediction."""
    for name in SCORE_NAMES[benchmark]:
        if isinstance(row.get(name), Mapping) and row[name]:
            score: Mapping[str, Any] = row[name]
            return score
    for name, value in row.items():
        if name in ("doc", "judge") or not isinstance(value, Mapping):
            continue
        field = next((field for field in _PREDICTIONS if field in value), None)
        if field is not None:
            return {**value, _PREDICTION_OF.get(benchmark, "pred_answer"): value[field]}
    return None


def _doc_of_input(row: Row, benchmark: str, score: Mapping[str, Any]) -> dict[str, Any] | None:
    """A `doc` from what is left in a row without one: the prompt, the target and the score dict."""
    if benchmark == "vsibench":
        return dict(score) or None
    prompt = row["input"] if isinstance(row.get("input"), str) else str(score.get("question") or "")
    options = listed_options(prompt)
    letters = [chr(ord("A") + index) for index in range(len(options))]
    target = str(row.get("target", "")).strip()
    doc: dict[str, Any] = {"question": prompt}
    if benchmark in ("mvbench", "mlvu"):
        return {**doc, "candidates": options, "answer": target}
    if benchmark == "longvideobench":
        numbered = {f"option{index}": option for index, option in enumerate(options)}
        return {**doc, **numbered, "correct_choice": target}
    if benchmark == "scivideobench":
        return {**doc, "options": dict(zip(letters, options, strict=True)), "answer": target}
    if benchmark == "mmvu":
        return {**doc, "choices": dict(zip(letters, options, strict=True)), "answer": target}
    if benchmark == "video_mmmu":
        return {**doc, "options": options, "answer": target}
    if benchmark == "tempcompass":
        return {**doc, "answer": score.get("gt-answer") or target}
    lines = [f"{letter}. {option}" for letter, option in zip(letters, options, strict=True)]
    return {**doc, "options": lines, "answer": target}


def listed_options(text: str) -> list[str]:
    """The texts of the last list of lines A, B, ... (or 1, 2, ...) in a prompt; [] where there is none."""
    options: list[str] = []
    listed: list[str] = []
    for line in text.split("\n"):
        mark = _OPTION_LINE.fullmatch(line.rstrip())
        if mark is None:
            options = []
            continue
        place = int(mark[1]) - 1 if mark[1].isdigit() else ord(mark[1]) - ord("A")
        options = [*options, mark[2]] if place == len(options) else [mark[2]] if place == 0 else []
        if len(options) > 1:
            listed = options
    return listed


def _with_minerva_options(doc: Mapping[str, Any]) -> Mapping[str, Any]:
    """MINERVA as it is published: `answer_choice_0` to `answer_choice_4` and `answer_id`."""
    choices = [doc[key] for key in (f"answer_choice_{index}" for index in range(5)) if doc.get(key) not in (None, "")]
    if doc.get("options") or not choices:
        return doc
    lines = [f"{chr(ord('A') + index)}. {choice}" for index, choice in enumerate(choices)]
    number = str(doc.get("answer_id", ""))
    letter = chr(ord("A") + int(number)) if number.isdecimal() and int(number) < len(choices) else None
    return {**doc, "options": lines, **({} if letter is None else {"answer": letter})}


def _tempcompass(
    row: Row, doc: Mapping[str, Any], score: Mapping[str, Any] | None
) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
    """TempCompass' four parts as it publishes them: options in the question, answers in words, a rating for a score.

    Yes and no become options A and B.
    """
    if "mc_answer" in doc or (score is not None and "chatgpt-answer" in score):
        raise ValueError("a caption has no answer to compare with another; leave out TempCompass' captioning part")
    answer = str(doc.get("answer") or row.get("target") or "").strip()
    options = ["yes", "no"] if answer.lower() in ("yes", "no") else listed_options(str(doc.get("question") or ""))
    if not doc.get("options") and options:
        letter = _option_named(answer, options) or answer
        lines = [f"{chr(ord('A') + index)}. {option}" for index, option in enumerate(options)]
        doc = {**doc, "options": lines, "answer": letter}
    if score is None or "rating" not in score:
        return doc, score
    truth = str(doc.get("answer") or "")
    said = _option_named(str(score.get("video-llm-prediction") or ""), options) or ""
    # The rating is lmms-eval's own, by its rules or by a language model.
    predicted = truth if score["rating"] == 1 else "" if said == truth else said
    return doc, {**score, "pred_answer": predicted, "answer": truth}


def _option_named(answer: str, options: Sequence[str]) -> str | None:
    """The letter of an answer such as "B. green", "Option 2: green", "green" or "B"."""
    mark = _OPTION_LINE.fullmatch(answer)
    texts = [option.lower().rstrip(".") for option in options]
    text = (mark[2] if mark else answer).lower().rstrip(".")
    if text in texts:
        return chr(ord("A") + texts.index(text))
    read = read_answer(answer, "choice", tuple(options)) if options else None
    return None if read is None else str(read)
