"""The step beside TRL's: that both sides get equal work, and what is made of their seconds."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.grpo_step import our_overrides, our_steps, report, with_rest, without_reward
from benchmarks.grpo_workload import moving_square, successors, write_workload
from benchmarks.shapes import SHAPES, Shape
from benchmarks.stub_judge import CLAIMS_WORDS, reply_to
from benchmarks.trl_grpo import PhaseClock, clip_image_processor, clip_picture, with_images

W1 = SHAPES["W1"]


@pytest.fixture(scope="module")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workload")
    write_workload(folder, W1, steps=1)
    return folder


def test_every_response_has_the_shapes_length_and_a_form_that_rewards_read(workload: Path) -> None:
    import torch
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(workload / "model")
    model = AutoModelForImageTextToText.from_pretrained(workload / "model", dtype=torch.float32)
    prompt = tokenizer(["<|im_start|>assistant\n"] * 16, return_tensors="pt")
    torch.manual_seed(0)
    found = model.generate(**prompt, do_sample=True, temperature=0.9, top_k=50, max_new_tokens=W1.response_tokens)[
        :, prompt["input_ids"].shape[1] :
    ]
    assert found.shape == (16, W1.response_tokens)
    assert not (found == tokenizer.eos_token_id).any()
    texts = tokenizer.batch_decode(found)
    assert all(re.fullmatch(r"<think>[^<>]+</think><answer>[AB]</answer>", text) for text in texts)
    assert len(set(texts)) == 16
    assert {text[-10] for text in texts} == {"A", "B"}


@pytest.mark.parametrize("length", [64, 100])
def test_no_token_follows_at_two_places(workload: Path, length: int) -> None:
    from transformers import AutoTokenizer

    follows = successors(AutoTokenizer.from_pretrained(workload / "model"), length=length)
    tokens = [token for _, after in follows for token in after]
    assert len(follows) == length
    assert len(set(tokens)) == len(tokens)
    assert [before for before, _ in follows[1:]] == [after for _, after in follows[:-1]]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_our_prompts_are_of_the_shape(tmp_path: Path, shape: Shape) -> None:
    from videor2_rl.app import compose_run
    from videor2_rl.config.runs import GrpoRun
    from videor2_rl.dataset import load_samples
    from videor2_rl.model.prompt import PromptBuilder
    from videor2_rl.video.load import load_clip

    one_prompt = replace(shape, prompts=1)
    write_workload(tmp_path, one_prompt, steps=1)
    overrides = our_overrides(shape, tmp_path, tmp_path / "run", judge="http://localhost:1/v1", steps=2)
    run = compose_run("grpo", GrpoRun, overrides)
    assert run.data.train_file is not None
    (sample,) = load_samples(run.data.train_file, data=run.data)
    prompt = PromptBuilder(run.model).build(sample, load_clip(sample, run.video)[0])
    assert prompt.video_grid_thw.tolist() == [list(shape.grid)]
    assert len(prompt.token_ids) == shape.prompt_tokens
    assert run.algorithm.prompts_per_step == shape.prompts
    assert run.rollout.max_response_tokens == shape.response_tokens


def test_a_picture_of_frames_gives_the_patches_of_the_video(workload: Path) -> None:
    import torch
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(workload / "model")
    picture = clip_picture(str(workload / "clips" / "0.mp4"), shape=W1)
    ours = clip_image_processor(processor.image_processor, W1)(images=[picture, picture], return_tensors="pt")
    frames = np.asarray(picture).reshape(W1.grid[0], -1, picture.width, 3).repeat(2, axis=0)
    video = processor.video_processor(
        videos=[torch.from_numpy(frames).permute(0, 3, 1, 2)],
        return_tensors="pt",
        do_resize=False,
        do_sample_frames=False,
    )
    assert ours["image_grid_thw"].tolist() == [list(W1.grid)] * 2 == video["video_grid_thw"].tolist() * 2
    torch.testing.assert_close(ours["pixel_values"][: math.prod(W1.grid)], video["pixel_values_videos"])


def test_a_clip_is_decoded_once_for_its_group() -> None:
    decoded = []

    def picture_of(path: str) -> str:
        decoded.append(path)
        return f"picture of {path}"

    batch = with_images(picture_of)({"video": ["a", "a", "b"]})
    assert decoded == ["a", "b"]
    assert batch["images"] == [["picture of a"], ["picture of a"], ["picture of b"]]


def test_the_square_goes_from_left_to_right() -> None:
    first, *_, last = moving_square(20, 120, 160, seed=0)
    colour = first[60, 0]
    assert (first[60:90, :30] == colour).all() and not (last[60:90, :30] == colour).all()
    assert (last[60:90, 123:153] == colour).all()


def test_no_two_claims_replies_are_alike_and_every_third_verdict_is_no() -> None:
    replies = [reply_to(b"... " + CLAIMS_WORDS + b" ...", number) for number in range(9)]
    assert len({claim["event"] for reply in replies for claim in json.loads(reply)["claims"]}) == 18
    verdicts = [json.loads(reply_to(b"other", number))["consistent"] for number in range(6)]
    assert verdicts == [False, True, True, False, True, True]


def test_a_phase_within_another_one_is_not_counted_twice() -> None:
    # Begin, outer in, inner in, inner out, outer out, end of the step; then a step of 3 s without a phase.
    clock = PhaseClock(iter([0.0, 1.0, 3.0, 7.0, 8.0, 10.0, 13.0]).__next__)
    inner = clock.timed("inner", lambda: "found")
    outer = clock.timed(lambda: "outer", inner)
    assert outer() == "found"
    assert clock.end_step() == {"outer": 3.0, "inner": 4.0, "step": 10.0}
    assert clock.end_step() == {"step": 3.0}


def test_lengths_and_phases_are_read_from_the_runs_metrics(tmp_path: Path) -> None:
    row = {
        "step": 1,
        "timing_s/generate": 1.5,
        "timing_s/sync_load": 9.0,
        "rollout/response_tokens_mean": 64.0,
        "actor/packed_tokens": 16 * (58 + 8 * 64),
    }
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    assert our_steps(tmp_path, W1) == [{"generate": 1.5, "prompt_tokens": 58.0, "response_tokens": 64.0}]


def test_what_is_of_no_phase_is_the_rest() -> None:
    assert with_rest({"generate": 1.0, "update": 2.0, "step": 3.5})["rest"] == 0.5
    assert without_reward({"generate": 1.0, "reward": 0.5, "step": 2.0}) == 1.5
    # Phases beside each other: nobody knows what the reward's alone cost.
    assert math.isnan(without_reward({"generate": 2.0, "reward": 0.5, "step": 2.0}))


def test_the_table_has_the_runs_mean_steps_and_ratios_over_repeats() -> None:
    def run(*steps: float, share: float) -> list[dict[str, float]]:
        phases = [{"generate": step * (1 - share), "reward": step * share, "rest": 0.0} for step in steps]
        return [{**seconds, "step": step, "cpu": step / 2} for seconds, step in zip(phases, steps, strict=True)]

    # Means of 2, 1, 2 and 4, 4, 6: ratios 2, 4 and 3, while the medians over all steps are 1 and 4.
    ours = [run(*steps, share=0.5) for steps in ((4, 1, 1), (1, 1, 1), (4, 1, 1))]
    trl = [run(*steps, share=0.75) for steps in ((4, 4, 4), (4, 4, 4), (10, 4, 4))]
    found = {"ours": ours, "TRL": trl}
    lines = report(W1, found, judge_latency_s=0.0).splitlines()
    assert "| reward | 0.50 | 3.00 |" in lines
    assert "| step | 2.00 | 4.00 |" in lines
    assert "| step: TRL / this | 3.00 | 1.00 |" in lines
    assert "| step without reward: TRL / this | 1.50 | 1.00 |" in lines
    assert "| CPU seconds: TRL / this | 3.00 | 1.00 |" in lines
