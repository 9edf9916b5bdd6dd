from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import learner_configs
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from videor2_rl.config.sections import DataConfig, ModelConfig, VideoConfig
from videor2_rl.dataset import load_samples
from videor2_rl.evaluation.probes.attention import AttentionShare
from videor2_rl.evaluation.probes.interventions import INTERVENTIONS, altered_clip
from videor2_rl.evaluation.probes.model import ProbedModel
from videor2_rl.evaluation.probes.run import is_right, run_probes
from videor2_rl.model.packing import PixelNorm, pack
from videor2_rl.types import Prompt, VideoSample
from videor2_rl.video.load import load_clip

RESPONSE = "<think>At 00:05 a red square appears. The first is red (A).</think>\n<answer>A</answer>"


@pytest.fixture(scope="module")
def probed(tiny_model_dir: Path) -> ProbedModel:
    return ProbedModel(learner_configs.model_config(str(tiny_model_dir)), device="cpu")


@pytest.fixture
def samples(demo_dir: Path) -> list[VideoSample]:
    data = DataConfig(None, None, str(demo_dir), None, False, 0.0, None)
    return load_samples(str(demo_dir / "heldout.json"), data=data)[:2]


@pytest.fixture
def prompt(probed: ProbedModel, samples: list[VideoSample], video_config: VideoConfig) -> Prompt:
    clip, _ = load_clip(samples[0], video_config)
    return probed.builder.build(samples[0], clip)


def eager_outputs(probed: ProbedModel, tiny_model_dir: Path, prompt: Prompt, ids: Any) -> Any:
    """Transformers' own eager attention over the whole sequence, with all of its weights."""
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(
        tiny_model_dir, dtype=torch.float32, attn_implementation="eager"
    )
    processor = probed.builder.processor.video_processor
    batch = pack([prompt], [[ids]], pixel_norm=PixelNorm(tuple(processor.image_mean), tuple(processor.image_std)))
    with torch.no_grad():
        return model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            pixel_values_videos=batch.pixel_values_videos,
            video_grid_thw=batch.video_grid_thw,
            attention_mask=torch.ones_like(batch.input_ids),
            output_attentions=True,
            use_cache=False,
        )


def test_attention_shares_and_log_probs_equal_those_from_transformers_eager_weights(
    probed: ProbedModel, tiny_model_dir: Path, prompt: Prompt
) -> None:
    ids = probed.builder.encode_response(RESPONSE)
    log_probs, share = probed.forced(prompt, ids)
    expected = eager_outputs(probed, tiny_model_dir, prompt, ids)
    is_video = torch.tensor(np.concatenate([prompt.token_ids, ids]) == probed.builder.video_token_id)
    start = len(prompt.token_ids)
    by_layer = [float(weights[0, :, start:][:, :, is_video].sum(-1).mean()) for weights in expected.attentions]
    assert share.last_layer == pytest.approx(by_layer[-1], abs=1e-6)
    assert share.mean_layers == pytest.approx(float(np.mean(by_layer)), abs=1e-6)
    assert len(by_layer) > 1 and 0 < share.last_layer < 1
    counts = [int(is_video.sum()) / (start + row + 1) for row in range(len(ids))]
    assert share.uniform == pytest.approx(float(np.mean(counts)), abs=1e-6)
    table = expected.logits[0].log_softmax(-1)
    want = [float(table[start - 1 + row, int(token)]) for row, token in enumerate(ids)]
    np.testing.assert_allclose(log_probs, want, atol=2e-5)


def test_a_long_response_is_summed_over_all_its_chunks(
    probed: ProbedModel, tiny_model_dir: Path, prompt: Prompt
) -> None:
    ids = np.tile(probed.builder.encode_response(RESPONSE)[:-1], 8)
    assert len(ids) > 2 * 64
    _, share = probed.forced(prompt, ids)
    weights = eager_outputs(probed, tiny_model_dir, prompt, ids).attentions[-1]
    is_video = torch.tensor(np.concatenate([prompt.token_ids, ids]) == probed.builder.video_token_id)
    assert share.last_layer == pytest.approx(
        float(weights[0, :, len(prompt.token_ids) :][:, :, is_video].sum(-1).mean()), abs=1e-6
    )


def test_a_greedy_response_is_the_most_likely_token_each_time_without_a_cache(
    probed: ProbedModel, tiny_model_dir: Path, prompt: Prompt
) -> None:
    text = probed.greedy(prompt, max_tokens=4)
    allowed = sorted(set(range(len(probed.builder.tokenizer))) - set(probed.builder.banned_token_ids))
    ids: list[int] = []
    for _ in range(4):
        # Whatever stands at the end changes nothing before it.
        logits = eager_outputs(probed, tiny_model_dir, prompt, np.asarray([*ids, allowed[0]])).logits[0, -2]
        best = allowed[int(logits[allowed].argmax())]
        if best == probed.builder.eos_token_id:
            break
        ids.append(best)
    assert text == probed.builder.tokenizer.decode(ids, skip_special_tokens=True)


def test_the_log_prob_of_an_answer_is_that_of_its_tokens_alone(probed: ProbedModel, prompt: Prompt) -> None:
    before = RESPONSE.partition("<answer>")[0] + "<answer>"
    value = probed.log_prob_of(prompt, before, "A")
    whole, _ = probed.forced(prompt, probed.builder.encode_response(before + "A"))
    prefix = len(probed.builder.encode_response(before)) - 1
    assert value == pytest.approx(float(whole[prefix:-1].sum()), abs=1e-5)


@pytest.mark.parametrize("name", INTERVENTIONS)
def test_an_intervention_changes_the_frames_and_nothing_else(
    name: str, samples: list[VideoSample], video_config: VideoConfig
) -> None:
    true, _ = load_clip(samples[0], video_config)
    altered = altered_clip(samples[0], video_config, name, seed=3)
    assert altered.frames.shape == true.frames.shape and altered.frames.dtype == np.uint8
    assert np.array_equal(altered.timestamps_s, true.timestamps_s) and altered.sample_fps == true.sample_fps
    expected = {
        "blank": lambda frames: np.full_like(frames, 128),
        "first_frame": lambda frames: np.stack([frames[0]] * len(frames)),
        "time_shifted": lambda frames: np.concatenate([frames[-(len(frames) // 2) :], frames[: -(len(frames) // 2)]]),
    }
    if name in expected:
        assert np.array_equal(altered.frames, expected[name](true.frames))
    else:
        assert not np.array_equal(altered.frames, true.frames)
        assert sorted(frame.tobytes() for frame in altered.frames) == sorted(frame.tobytes() for frame in true.frames)
        again = altered_clip(samples[0], video_config, name, seed=3)
        assert np.array_equal(again.frames, altered.frames)


def test_the_stamps_stay_true_where_the_frames_are_shuffled(
    samples: list[VideoSample], video_config: VideoConfig
) -> None:
    stamped = replace(video_config, timestamps=True, min_pixels=12_544, max_pixels=12_544)
    bare = replace(stamped, timestamps=False)
    drawn = altered_clip(samples[0], stamped, "blank", seed=0).frames
    assert len({frame.tobytes() for frame in drawn}) == len(drawn)
    assert len({frame.tobytes() for frame in altered_clip(samples[0], bare, "blank", seed=0).frames}) == 1


def test_a_probe_run_writes_a_row_for_each_sample_and_differences_from_the_true_video(
    samples: list[VideoSample], model_config: ModelConfig, video_config: VideoConfig, tmp_path: Path
) -> None:
    responses = {sample.sample_id: RESPONSE for sample in samples}
    responses[samples[1].sample_id] = "no tags"
    seen: list[int] = []
    summary = run_probes(
        tmp_path,
        responses,
        samples,
        probes=("attention", "interventions"),
        model=model_config,
        video=video_config,
        device="cpu",
        max_tokens=4,
        resamples=20,
        seed=0,
        on_sample=lambda: seen.append(1),
    )
    assert json.loads((tmp_path / "probes.json").read_text()) == summary and len(seen) == 2
    rows = [json.loads(line) for line in (tmp_path / "probes.jsonl").read_text().splitlines()]
    assert rows[1]["interventions"]["true"]["answer_log_prob"] is None
    true, blank = (rows[0]["interventions"][name]["response_log_prob"] for name in ("true", "blank"))
    assert math.isfinite(true) and true != blank
    assert summary["true_minus"]["blank"]["answer_log_prob"]["num_scored"] == 1
    assert set(summary["interventions"]) == {"true", *INTERVENTIONS}


def test_right_is_the_true_letter_in_the_last_answer_block(samples: list[VideoSample]) -> None:
    truth = samples[0].solution.rpartition("<answer>")[2].removesuffix("</answer>")
    other = "D" if truth != "D" else "A"
    assert is_right(f"<answer>{other}</answer><answer>{truth}</answer>", samples[0]) == 1.0
    assert is_right(f"<answer>{other}</answer>", samples[0]) == 0.0
    assert is_right("nothing", samples[0]) == 0.0


class Scripted:
    """A model whose prompts are names of interventions: sure of everything it sees truly, and less so otherwise."""

    sureness: ClassVar[dict[str, float]] = {"true": 3.0, "blank": 1.0, "first_frame": 2.0, "shuffled": 4.0}
    asked: ClassVar[list[tuple[str, str]]] = []

    def __init__(self, config: ModelConfig, *, device: str) -> None:
        self.builder = self

    def build(self, sample: VideoSample, clip: str) -> str:
        return clip

    def encode_response(self, text: str) -> str:
        return text

    def forced(self, prompt: str, ids: str) -> tuple[NDArray[np.float64], AttentionShare]:
        sure = self.sureness.get(prompt, 2.5)
        return np.array([-1.0 / sure, -3.0 / sure]), AttentionShare(last_layer=0.1, mean_layers=0.2, uniform=0.4)

    def greedy(self, prompt: str, *, max_tokens: int) -> str:
        return "<answer>B</answer>" if prompt in ("true", "shuffled") else "<answer>A</answer>"

    def log_prob_of(self, prompt: str, before: str, text: str) -> float:
        self.asked.append((before, text))
        return -12.0 / self.sureness.get(prompt, 2.5)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int]]:
    """Replaces the model and the clips; gives the (sample, intervention, seed) of the altered ones."""
    altered: list[tuple[str, str, int]] = []

    def alter(sample: VideoSample, video: VideoConfig, name: str, *, seed: int) -> str:
        altered.append((sample.sample_id, name, seed))
        return name

    module = "videor2_rl.evaluation.probes.run"
    monkeypatch.setattr(f"{module}.ProbedModel", Scripted)
    monkeypatch.setattr(f"{module}.load_clip", lambda sample, video: ("true", None))
    monkeypatch.setattr(f"{module}.altered_clip", alter)
    monkeypatch.setattr(Scripted, "asked", [])
    return altered


TWO = [VideoSample(sample_id=name, video="v", question="Which? A. red B. blue", solution="B") for name in ("x", "y")]


def probe(folder: Path, response: str, model: ModelConfig, video: VideoConfig, *, seed: int = 0) -> dict[str, Any]:
    return run_probes(
        folder,
        dict.fromkeys(("x", "y"), response),
        TWO,
        probes=("attention", "interventions"),
        model=model,
        video=video,
        device="cpu",
        max_tokens=4,
        resamples=5,
        seed=seed,
        on_sample=lambda: None,
    )


def test_a_difference_is_the_true_video_less_the_altered_one(
    scripted: list[tuple[str, str, int]], model_config: ModelConfig, video_config: VideoConfig, tmp_path: Path
) -> None:
    summary = probe(tmp_path, "<answer>A</answer>So red?<answer>B</answer>", model_config, video_config)
    means = {
        kind: {name: [entry["mean"] for entry in measures.values()] for name, measures in summary[kind].items()}
        for kind in ("interventions", "true_minus")
    }
    # In the order of MEASURES: -12 / sureness, the mean of -1 and -3 over it, and whether the answer is B.
    assert means["interventions"] == {
        "true": [-4.0, pytest.approx(-2 / 3), 1.0],
        "blank": [-12.0, -2.0, 0.0],
        "first_frame": [-6.0, -1.0, 0.0],
        "shuffled": [-3.0, -0.5, 1.0],
        "time_shifted": [pytest.approx(-4.8), pytest.approx(-0.8), 0.0],
    }
    assert means["true_minus"]["blank"] == [8.0, pytest.approx(4 / 3), 1.0]
    assert means["true_minus"]["shuffled"] == [-1.0, pytest.approx(-1 / 6), 0.0]
    shares = {name: entry["mean"] for name, entry in summary["attention"].items()}
    assert shares == {"last_layer": 0.1, "mean_layers": 0.2, "uniform": 0.4}
    # The true answer behind the reasoning, which ends with the last answer tag.
    assert set(Scripted.asked) == {("<answer>A</answer>So red?<answer>", "B")}


def test_clips_are_altered_alike_in_every_run_and_each_in_its_own_way(
    scripted: list[tuple[str, str, int]], model_config: ModelConfig, video_config: VideoConfig, tmp_path: Path
) -> None:
    for seed in (0, 0, 1):
        probe(tmp_path, RESPONSE, model_config, video_config, seed=seed)
    first, again, other = scripted[:8], scripted[8:16], scripted[16:]
    assert [(sample, name) for sample, name, _ in first] == [
        (sample, name) for sample in "xy" for name in INTERVENTIONS
    ]
    assert first == again
    seeds = [{seed for sample, _, seed in run if sample == name} for run in (first, other) for name in "xy"]
    assert [len(found) for found in seeds] == [1] * 4 and len(set.union(*seeds)) == 4
