from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from videor2_rl.app import compose_run
from videor2_rl.config.errors import ConfigError
from videor2_rl.config.runs import EvaluateRun
from videor2_rl.evaluation.held_out import held_out
from videor2_rl.evaluation.summary import SampleResult, evaluation_card, evaluation_dir

MODEL = "model.path=/model"


def run_of(*overrides: str) -> EvaluateRun:
    return compose_run("evaluate", EvaluateRun, [MODEL, *overrides])


def result_of(sample_id: str, response: str) -> SampleResult:
    return SampleResult(
        sample_id=sample_id,
        video="v.mp4",
        question="?",
        target="B",
        response=response,
        answer="A",
        finish_reason="stop",
        response_tokens=1,
        accuracy=0.0,
        tac=None,
        tar_precision=None,
        tar_recall=None,
        tar_f1=None,
        format=1.0,
    )


@pytest.fixture
def minerva(tmp_path: Path) -> Path:
    row = {"key": "k1", "video_id": "v1", "question": "Which?", "answer_id": 1}
    row |= {f"answer_choice_{index}": text for index, text in enumerate(["red", "green", "blue", "white", "black"])}
    (tmp_path / "minerva.json").write_text(json.dumps([row]))
    return tmp_path


def test_a_benchmark_needs_only_its_folder_and_scores_by_its_own_rule(minerva: Path) -> None:
    run = run_of("evaluation.benchmark=minerva", f"evaluation.benchmark_dir={minerva}")
    questions = held_out(run)
    assert [sample.sample_id for sample in questions.samples] == ["k1"]
    response = "<think>x</think><answer>(B)</answer>"
    scored = questions.scored(result_of("k1", response))
    assert (scored.answer, scored.accuracy) == ("B", 1.0)
    fields = questions.log_fields(scored)
    assert fields["minerva_perception_score"] == {"question_id": "k1", "pred_answer": "B", "answer": "B"}
    assert fields["filtered_resps"] == [response] and fields["doc"]["id"] == "k1"


def test_the_synthetic_clips_are_a_benchmark_too(demo_dir: Path) -> None:
    questions = held_out(run_of("evaluation.benchmark=synthetic", f"evaluation.benchmark_dir={demo_dir}"))
    assert len(questions.samples) == len(json.loads((demo_dir / "heldout.json").read_text()))
    assert questions.samples[0].temporal_grounding and not questions.items
    unscored = result_of(questions.samples[0].sample_id, "")
    assert questions.scored(unscored) == unscored and questions.log_fields(unscored) == {}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.media_dir=."], "data.validation_file is required"),
        (["evaluation.benchmark=mlvu", "data.media_dir=."], "there is no folder None; fetch"),
        (["evaluation.benchmark=synthetic", "evaluation.benchmark_dir=/nowhere"], "make_demo"),
    ],
)
def test_what_is_missing_is_said_with_the_mend(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        held_out(run_of(*overrides))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_an_unknown_benchmark_and_a_missing_media_folder_are_configuration_errors() -> None:
    with pytest.raises(ConfigError, match=r"evaluation.benchmark: found 'mmbench'"):
        run_of("evaluation.benchmark=mmbench", "evaluation.benchmark_dir=.")
    with pytest.raises(ConfigError, match=r"data.media_dir is required and has no value; give it as"):
        run_of("data.validation_file=x.json")


def test_the_card_names_everything_that_shapes_a_score(minerva: Path) -> None:
    run = run_of("evaluation.benchmark=minerva", f"evaluation.benchmark_dir={minerva}")
    card = evaluation_card(run, stage="model", mode="greedy", questions_sha256=held_out(run).digest)
    assert {"model", "video", "sampling", "reward", "judge", "data", "seed", "device", "versions"} <= card.keys()
    assert {"fps", "max_frames", "min_pixels", "max_pixels", "timestamps", "subtitles", "decoder"} <= card[
        "video"
    ].keys()
    assert {"system_prompt", "instruction"} <= card["model"].keys() and card["judge"]["kind"] == "rules"
    assert card["data"]["benchmark"] == "minerva" and len(card["data"]["questions_sha256"]) == 64
    assert evaluation_dir(Path("o"), stage="s", mode="greedy", benchmark="mlvu") == Path("o/evaluation/mlvu/s/greedy")


def test_the_card_holds_the_values_of_its_own_checkpoint_mode_and_questions(minerva: Path) -> None:
    shared = [
        "evaluation.checkpoints=[sft:/sft,grpo:/grpo]",
        "evaluation.num_samples=7",
        "seed=5",
        "rollout.max_response_tokens=300",
        "rollout.max_model_tokens=2000",
    ]
    rows = run_of(*shared, "data.validation_file=rows.json", "data.media_dir=.")
    benchmark = run_of(*shared, "evaluation.benchmark=minerva", f"evaluation.benchmark_dir={minerva}")
    greedy = evaluation_card(rows, stage="sft", mode="greedy", questions_sha256="x")
    sampled = evaluation_card(benchmark, stage="grpo", mode="sampled", questions_sha256="y")
    assert [card["sampling"]["temperature"] for card in (greedy, sampled)] == [0.0, 1.0]
    assert [card["model"]["path"] for card in (greedy, sampled)] == ["/sft", "/grpo"]
    assert [card["stage"] for card in (greedy, sampled)] == ["sft", "grpo"]
    assert greedy["sampling"] == {
        "temperature": 0.0,
        "top_p": 1.0,
        "top_k": 0,
        "max_response_tokens": 300,
        "max_model_tokens": 2000,
    }
    assert greedy["data"] == {
        "benchmark": None,
        "source": "rows.json",
        "questions_sha256": "x",
        "max_samples": 7,
    }
    assert sampled["data"]["source"] == str(minerva)
    assert greedy["reward"] == asdict(rows.reward) and greedy["judge"] == asdict(rows.judge)
    assert (greedy["seed"], greedy["device"]) == (5, rows.cluster.device)
    # Where frames are kept and how many processes decode them shapes no score.
    assert not {"cache_dir", "num_workers"} & sampled["video"].keys()
    with pytest.raises(ConfigError, match=r"evaluation.checkpoints has no 'model'; it names sft, grpo"):
        evaluation_card(rows, stage="model", mode="greedy", questions_sha256="x")


def test_the_digest_depends_on_ids_questions_answers_and_their_order(minerva: Path) -> None:
    questions = held_out(run_of("evaluation.benchmark=minerva", f"evaluation.benchmark_dir={minerva}"))
    (sample,) = questions.samples
    other = replace(sample, sample_id="k2")
    changed = [
        (other,),
        (replace(sample, question="Who?"),),
        (replace(sample, solution="C"),),
        (sample, other),
        (other, sample),
    ]
    digests = {replace(questions, samples=samples).digest for samples in [(sample,), *changed]}
    assert len(digests) == len(changed) + 1
    moved = replace(sample, video="/elsewhere.mp4")
    assert replace(questions, samples=(moved,)).digest == questions.digest


def test_only_the_first_rows_are_asked_and_synthetic_clips_lie_in_their_own_folder(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<video>\nWhich? A. red B. green"}, {"from": "gpt", "value": "A"}]
    rows = [{"video": f"{name}.mp4", "conversations": turns} for name in "abc"]
    for file in ("rows.json", "heldout.json"):
        (tmp_path / file).write_text(json.dumps(rows))
    dataset = [f"data.validation_file={tmp_path / 'rows.json'}", f"data.media_dir={tmp_path}"]
    synthetic = ["evaluation.benchmark=synthetic", f"evaluation.benchmark_dir={tmp_path}", "data.media_dir=/elsewhere"]
    for overrides in (dataset, synthetic):
        samples = held_out(run_of(*overrides, "evaluation.num_samples=2")).samples
        assert [sample.video for sample in samples] == [str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4")]
