"""A chat without an engine: the tiny model's tokenizer and processor, and answers that are written down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from videor2_rl.chat.session import Session
from videor2_rl.chat.settings import chat_run
from videor2_rl.demo.model import make_model
from videor2_rl.types import AnswerPart, Prompt, SamplingSpec

ANSWER = "<think>At 00:02 a red square appears. At 00:09 a blue one. So it is red (A).</think><answer>A</answer>"
DEMO = ["model=demo", "video=demo", "rollout=demo"]


class Written:
    """Gives its text in parts; `asked` are the prompts that came, `taken` how many parts of the last answer were."""

    def __init__(self, text: str = ANSWER, *, pause_s: float = 0.0) -> None:
        self.text = text
        self.pause_s = pause_s
        self.asked: list[Prompt] = []
        self.taken = 0

    async def answer(self, prompt: Prompt, sampling: SamplingSpec) -> AsyncIterator[AnswerPart]:
        self.asked.append(prompt)
        parts = [self.text[start : start + 12] for start in range(0, len(self.text), 12)]
        for number, part in enumerate(parts, start=1):
            await asyncio.sleep(self.pause_s)
            self.taken = number
            yield AnswerPart(part, number, "stop" if number == len(parts) else None)


def tiny_session(folder: Path, overrides: Sequence[str] = ()) -> Session:
    """Of a tiny model that is made in the folder."""
    model = folder / "model"
    if not model.exists():
        make_model(model, seed=0)
    run, _ = chat_run(model, [*DEMO, f"video.cache_dir={folder / 'cache'}", *overrides])
    return Session(run)
