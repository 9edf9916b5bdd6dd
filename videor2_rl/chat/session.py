"""What is asked and what comes of it: the frames and the prompt as training makes them, and how an answer is read."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rewards.reading import read_response
from rewards.terms.accuracy import read_answer
from rewards.terms.format import format_verdict
from rewards.text.parsing import options_in, read_blocks
from rewards.types import NO_EVIDENCE, Target, Verdict, VideoR2Config
from videor2_rl.config.errors import ConfigError
from videor2_rl.config.runs import ChatRun
from videor2_rl.types import AnswerPart, Clip, Prompt, SamplingSpec, VideoSample
from videor2_rl.video.errors import VideoError
from videor2_rl.view.group import TERM_LABELS, why

if TYPE_CHECKING:
    from videor2_rl.judge.client import JudgeClient


class Answerer(Protocol):
    """An engine, as far as a chat needs it."""

    def answer(self, prompt: Prompt, sampling: SamplingSpec) -> AsyncIterator[AnswerPart]:
        """The response as it is sampled."""
        ...


@dataclass(frozen=True)
class Question:
    """What somebody asks."""

    text: str
    video: Path
    options: tuple[str, ...] = ()
    """Texts of A, B, C, ...; of a question that lists them itself none need be given."""
    subtitles: Path | None = None

    @property
    def whole(self) -> str:
        """The question with its options below it, as datasets have it."""
        if not self.options or options_in(self.text):
            return self.text
        return "\n".join([self.text, *(f"{chr(ord('A') + n)}. {option}" for n, option in enumerate(self.options))])


@dataclass(frozen=True)
class Asked:
    """A question ready for the engine."""

    question: Question
    clip: Clip
    prompt: Prompt


class Session:
    """A checkpoint's tokenizer and processor, and what reads its answers."""

    def __init__(self, run: ChatRun, *, judge: JudgeClient | None = None) -> None:
        """
        Args:
            judge: reads where `reward.consistency.reader=judge`.
        """
        from videor2_rl.model.prompt import PromptBuilder

        assert isinstance(run.reward, VideoR2Config), "checked with the configuration"
        self.run = run
        self._builder = PromptBuilder(run.model, max_prompt_tokens=run.rollout.max_prompt_tokens)
        self._judge = judge
        self._lock = threading.Lock()
        # Claims earn nothing here, and a judge is asked of them only where there are events to match.
        self._reward = replace(run.reward, temporal_alignment=replace(run.reward.temporal_alignment, claims="rules"))

    @property
    def sampling(self) -> SamplingSpec:
        """How answers are sampled."""
        run = self.run
        return SamplingSpec(run.temperature, run.rollout.top_p, run.rollout.top_k, run.rollout.max_response_tokens, 1)

    def ask(self, question: Question) -> Asked:
        """Decode the clip and make the prompt.

        Raises:
            ConfigError: no question, a clip or subtitles that cannot be used, or more tokens than fit; says the mend.
        """
        from videor2_rl.video.load import load_clip

        if not question.text.strip():
            raise ConfigError("question: is empty; ask something")
        self._check_subtitles(question.subtitles)
        sample = VideoSample(
            sample_id="chat",
            video=str(question.video),
            question=question.whole,
            solution="",
            options=question.options,
            subtitles=None if question.subtitles is None else str(question.subtitles),
        )
        try:
            clip, _ = load_clip(sample, self.run.video)
            # A tokenizer is for one thread at a time.
            with self._lock:
                return Asked(question, clip, self._builder.build(sample, clip))
        except VideoError as error:
            what = error.detail.replace(f"{question.video}: ", "")
            if error.reason == "too_long" and "tokens" in what:
                raise ConfigError(
                    f"{what} beside rollout.max_response_tokens={self.run.rollout.max_response_tokens}; ask in fewer "
                    f"words, or give rollout.max_model_tokens=N, or a smaller video.max_frames or video.max_pixels"
                ) from None
            raise ConfigError(f"{question.video.name}: {what}") from None

    def _check_subtitles(self, file: Path | None) -> None:
        from videor2_rl.video.subtitles import read_subtitles

        if file is None:
            return
        if not self.run.video.subtitles:
            raise ConfigError("subtitles: are not drawn for this checkpoint (video.subtitles=false)")
        fault = read_subtitles(file, encoding=self.run.video.subtitle_encoding).fault
        if fault:
            raise ConfigError(f"{file.name}: {fault}")

    def read(self, asked: Asked, response: str) -> dict[str, Any]:
        """What TAC, the format rule and the claims' reader find in a response, as JSON.

        There is no right answer to compare with: accuracy and TAR say nothing here.
        """
        target = self._target(asked.question, response)
        evidence = NO_EVIDENCE
        if self._judge is not None:
            from videor2_rl.judge.evidence import gather_evidence

            [evidence] = gather_evidence(self._judge, [response], [target], self._reward)
        reading = read_response(response, target, self._reward, evidence)
        verdicts = {"consistency": reading.consistency, "format": format_verdict(reading.blocks)}
        return {
            "answer": reading.answer,
            "reader": self._reward.consistency.reader,
            "terms": [_term(name, verdict) for name, verdict in verdicts.items()],
            "claims": [claim._asdict() for claim in reading.claims or ()],
            "judge": {purpose: reply.text for purpose, reply in evidence.judge.items()},
        }

    def _target(self, question: Question, response: str) -> Target:
        """With the response's own answer in the place of the right one: it says what kind of answer is read."""
        options = question.options or options_in(question.text)
        said = (read_blocks(response, answer_block=self._reward.answer_block).answer or "").strip()
        if options:
            letter = read_answer(said, "choice", options)
            return Target(question.whole, str(letter or "A"), options, "multiple choice")
        return Target(question.whole, said or "none", ())


def _term(name: str, verdict: Verdict) -> dict[str, Any]:
    logged = {"verdict": verdict.status, "value": verdict.value, "detail": dict(verdict.detail)}
    return {"name": name, "label": TERM_LABELS[name], **logged, "why": why(name, logged)}
