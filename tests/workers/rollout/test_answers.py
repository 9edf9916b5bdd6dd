"""Answers as they come from a real engine: a rollout's own tokens, in parts; and the terminal of a chat over it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from rollout_checks import generate
from viewed_runs import numbered_clip

from videor2_rl.chat.__main__ import main
from videor2_rl.types import AnswerPart, Prompt, SamplingSpec
from workers.rollout import answers
from workers.rollout.answers import Answers
from workers.rollout.engine import EngineSpec

GREEDY = SamplingSpec(0.0, 1.0, 0, 24, 1)


@pytest.mark.slow
def test_parts_add_up_to_what_a_rollout_says_and_who_stops_listening_ends_the_request(
    engine: Any, engine_spec: EngineSpec, prompts: list[Prompt]
) -> None:
    streaming = Answers(engine.worker._engine, engine_spec)

    async def parts(most: int) -> list[AnswerPart]:
        found = []
        stream = streaming.answer(prompts[0], GREEDY)
        async for part in stream:
            found.append(part)
            if len(found) == most:
                break
        await stream.aclose()  # type: ignore[attr-defined]
        return found

    [group] = generate(engine, prompts[:1], temperature=0.0, group_size=1)
    whole = engine.run(parts(1000))
    text = "".join(part.text for part in whole)
    # Both stop at their own limit of tokens.
    assert len(whole) > 5 and text and group.rollouts[0].text.startswith(text.rstrip("\ufffd"))
    assert (whole[-1].num_tokens, whole[-1].finish_reason) == (24, "length")
    assert all(part.finish_reason is None for part in whole[:-1])
    engine.run(parts(2))
    assert not engine.worker._engine.output_processor.has_unfinished_requests()


@pytest.mark.slow
def test_a_question_in_the_terminal(
    engine: Any,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    @asynccontextmanager
    async def shared(spec: EngineSpec) -> AsyncIterator[Answers]:
        assert spec.model_path == str(checkpoint) and spec.device == "cpu"
        yield Answers(engine.worker._engine, spec)

    monkeypatch.setattr(answers, "answering", shared)
    monkeypatch.setattr(asyncio, "run", engine.run)
    clip = numbered_clip(tmp_path / "clip.mp4", [number / 5 for number in range(60)])
    command = [str(checkpoint), "model=demo", "video=demo", "rollout=demo", "rollout.max_response_tokens=16"]
    command += ["--ask", "Which first?", "--option", "red", "--option", "blue", "--video", str(clip)]
    main(command)
    shown = capfd.readouterr()
    main([*command, "--json"])
    said = json.loads(capfd.readouterr().out)
    assert shown.out.rstrip("\n") == said["text"].rstrip("\n")
    assert "TAC: " in shown.err
    assert (said["num_tokens"], said["finish_reason"], len(said["frame_times_s"])) == (16, "length", 12)
    with pytest.raises(SystemExit) as ended:
        main([*command[:-1], str(tmp_path / "lost.mp4")])
    assert ended.value.code == 2
    assert "--video: there is no file" in capfd.readouterr().err
