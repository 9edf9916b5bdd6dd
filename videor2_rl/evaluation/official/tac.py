"""Think-answer consistency as the paper's scripts compute it: per_sample.json and summary.json of one benchmark."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from videor2_rl.evaluation.official.cases import VSI_CHOICE_TYPES, VSI_NUMBER_TYPES, Case, answer_matches
from videor2_rl.evaluation.official.reading import find_letter, measure, vsi_letter

MRA_START, MRA_END, MRA_INTERVAL = 0.5, 0.95, 0.05


@dataclass(frozen=True)
class Mixer:
    """How the summariser makes a magnitude of an agreement r: a (1 - r^g) + (1 - a) (1 - r)."""

    alpha: float
    gamma: float

    def magnitude(self, agreement: float) -> float:
        return self.alpha * (1.0 - agreement**self.gamma) + (1.0 - self.alpha) * (1.0 - agreement)


PAPER_MIXER = Mixer(alpha=0.7, gamma=2.0)


@dataclass(frozen=True)
class Lens:
    """One reading of a response (lmms-eval's, of the answer block, of the think block), scored."""

    prediction: Any
    score: float
    """In [0, 1]; between the two only for VSIBench's numbers."""
    is_right: bool
    """For VSIBench's numbers: within 5 %."""


@dataclass(frozen=True)
class Lenses:
    """The three readings of one response."""

    lmms: Lens
    answer: Lens
    think: Lens


def read_case(case: Case, *, think_reply: str, answer_reply: str) -> Lenses:
    """Score a case; the replies are the judge's, "" where it gave none."""
    return Lenses(
        lmms=_scored(case, case.logged_prediction),
        answer=_scored(case, _prediction(case, answer_reply.strip())),
        think=_scored(case, _prediction(case, think_reply.strip())),
    )


def _prediction(case: Case, reply: str) -> Any:
    if case.kind == "open":
        return reply
    if case.kind == "letter":
        return find_letter(reply, len(case.options), case.letters)
    return vsi_letter(reply, case.options) if case.kind == "vsi_letter" else measure(reply)


def _scored(case: Case, prediction: Any) -> Lens:
    if case.kind != "vsi_number":
        is_right = answer_matches(case, prediction)
        return Lens(prediction, float(is_right), is_right)
    score = mean_relative_accuracy(prediction, case.truth)
    is_close = None not in (prediction, case.truth) and case.truth != 0
    return Lens(prediction, score, is_close and abs(prediction - case.truth) / abs(case.truth) <= 0.05)


def mean_relative_accuracy(prediction: float | None, truth: float | None) -> float:
    """Share of the thresholds 0.50 ... 0.95 that the relative error stays below (VSI-Bench, arXiv:2412.14171).

    A missing number and a true 0 score 0. The thresholds are summed up as the script does, rounding included.
    """
    if prediction is None or truth is None or truth == 0:
        return 0.0
    thresholds = [MRA_START]
    while thresholds[-1] + MRA_INTERVAL <= MRA_END + 1e-9:
        thresholds.append(thresholds[-1] + MRA_INTERVAL)
    error = abs(prediction - truth) / abs(truth)
    return sum(error <= 1.0 - threshold for threshold in thresholds) / len(thresholds)


def sample_record(benchmark: str, case: Case, lenses: Lenses) -> dict[str, Any]:
    """One entry of per_sample.json."""
    shared = {
        "doc_id": case.doc_id,
        "question": case.question,
        "options": list(case.options),
        "raw_response": case.response,
        "thinking_text": case.think,
        "final_answer_text": case.answer,
        "thinking_parsed_pred": lenses.think.prediction,
        "answer_parsed_pred": lenses.answer.prediction,
    }
    if benchmark == "vsibench":
        if case.extra["question_type"] not in (*VSI_NUMBER_TYPES, *VSI_CHOICE_TYPES):
            # A type that the script does not know is scored as a number, but its readings are not shown.
            shared |= {"thinking_parsed_pred": None, "answer_parsed_pred": None}
        return {
            **shared,
            "model_prediction": case.logged,
            "lmms_eval_score": lenses.lmms.score,
            "answer_parsed_score": lenses.answer.score,
            "thinking_parsed_score": lenses.think.score,
            **case.extra,
        }
    names = (
        ("ground_truth", "mmmu_parsed_pred") if _has_open(benchmark) else ("ground_truth_letter", "model_letter_pred")
    )
    return {
        **shared,
        names[0]: case.truth,
        names[1]: case.logged,
        "lmms_eval_correct": lenses.lmms.is_right,
        "answer_parsed_correct": lenses.answer.is_right,
        "thinking_parsed_correct": lenses.think.is_right,
        **case.extra,
    }


def _has_open(benchmark: str) -> bool:
    """Whether the benchmark has open questions besides choices, which its script counts."""
    return benchmark in ("mmvu", "video_mmmu")


def summarise(benchmark: str, cases: Sequence[Case], readings: Sequence[Lenses]) -> dict[str, Any]:
    """The content of one benchmark's summary.json."""
    total = len(cases)
    combinations = Counter((int(r.lmms.is_right), int(r.answer.is_right), int(r.think.is_right)) for r in readings)
    counts = {
        "lmms_eval": sum(r.lmms.score for r in readings),
        "answer_parsed": sum(r.answer.score for r in readings),
        "thinking_parsed": sum(r.think.score for r in readings),
    }
    same = sum(count for (_, answer, think), count in combinations.items() if answer == think)
    summary: dict[str, Any] = {"n_total": total}
    if _has_open(benchmark):
        choices = sum(case.kind == "letter" for case in cases)
        summary |= {"n_mcq": choices, "n_open_ended": total - choices}
    summary |= {f"{name}_accuracy": _share(count, total) for name, count in counts.items()}
    summary["answer_to_thinking_correlation"] = _share(same, total)
    if benchmark != "vsibench":
        summary |= {f"{name}_correct": int(count) for name, count in counts.items()}
    if _has_open(benchmark):
        summary |= {f"{name}_total": total for name in counts}
    summary["combinations"] = {
        f"lmms{lmms}_ans{answer}_think{think}": count for (lmms, answer, think), count in sorted(combinations.items())
    }
    if benchmark == "vsibench":
        summary["mra_params"] = {
            "start": MRA_START,
            "end": MRA_END,
            "interval": MRA_INTERVAL,
            "boolean_threshold": "5% rel. error for NA",
        }
        return summary
    summary["discrepancies"] = {
        "answer_correct_thinking_wrong": combinations[1, 1, 0] + combinations[0, 1, 0],
        "answer_wrong_thinking_correct": combinations[1, 0, 1] + combinations[0, 0, 1],
        "lmms_vs_answer_mismatch": sum(n for (lmms, answer, _), n in combinations.items() if lmms != answer),
    }
    return summary


def _share(count: float, total: int) -> float:
    return count / total if total else 0.0


def dataset_statistics(summary: Mapping[str, Any], *, mixer: Mixer = PAPER_MIXER) -> dict[str, Any]:
    """What the paper's summariser derives from one summary.json; None where it cannot be had."""
    answer, think = summary["answer_parsed_accuracy"], summary["thinking_parsed_accuracy"]
    agreement = summary["answer_to_thinking_correlation"]
    counts = {
        (a, t): sum(n for key, n in summary["combinations"].items() if key.endswith(f"ans{a}_think{t}"))
        for a in (0, 1)
        for t in (0, 1)
    }
    total, answer_right = sum(counts.values()), counts[1, 1] + counts[1, 0]
    differing = counts[0, 1] + counts[1, 0]
    sign = float((think > answer) - (think < answer))
    magnitude = mixer.magnitude(agreement)
    return {
        "lmms_eval_accuracy": summary["lmms_eval_accuracy"],
        "answer_parsed_accuracy": answer,
        "thinking_parsed_accuracy": think,
        "answer_to_thinking_correlation": agreement,
        "consistency_score": (think - answer) / min(answer, think) if min(answer, think) > 0 else None,
        "signed_disagreement": sign * differing / total if total else None,
        "signed_disagreement_mixer": sign * magnitude if total else None,
        "disagreement_rate": differing / total if total else None,
        "mixer_magnitude": magnitude,
        "consistency_error": counts[1, 0] / answer_right if answer_right else None,
        "consistency_accuracy": counts[1, 1] / answer_right if answer_right else None,
    }


AVERAGED = (
    "consistency_score",
    "answer_to_thinking_correlation",
    "signed_disagreement",
    "signed_disagreement_mixer",
    "disagreement_rate",
    "mixer_magnitude",
    "consistency_error",
    "consistency_accuracy",
)


def overall(datasets: Mapping[str, Mapping[str, Any]], *, mixer: Mixer = PAPER_MIXER) -> dict[str, Any]:
    """The summariser's means over datasets, each dataset counting once, those without a value left out."""
    averages: dict[str, Any] = {"num_datasets": len(datasets)}
    for name in AVERAGED:
        values = [float(dataset[name]) for dataset in datasets.values() if dataset[name] is not None]
        averages[f"average_{name}"] = sum(values) / len(values) if values else None
    return {**averages, "mixer_hyperparams": {"alpha": mixer.alpha, "gamma": mixer.gamma}}
