"""What is asked is made as training makes it, and what comes is read by the reward's own readers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from asked_clips import ANSWER, tiny_session
from viewed_runs import numbered_clip

from videor2_rl.chat.session import Asked, Question, Session
from videor2_rl.config.errors import ConfigError
from videor2_rl.model.prompt import PromptBuilder
from videor2_rl.types import VideoSample
from videor2_rl.video.load import load_clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("session")


@pytest.fixture(scope="module")
def clip(folder: Path) -> Path:
    return numbered_clip(folder / "clip.mp4", [number / 5 for number in range(60)])


@pytest.fixture(scope="module")
def session(folder: Path) -> Session:
    return tiny_session(folder)


def test_frames_and_prompt_are_those_of_training(session: Session, clip: Path) -> None:
    asked = session.ask(Question("Which first?", clip, ("red", "green")))
    sample = VideoSample("any", str(clip), "Which first?\nA. red\nB. green", "")
    trained, _ = load_clip(sample, session.run.video)
    expected = PromptBuilder(session.run.model).build(sample, trained)
    assert asked.prompt.text == expected.text and "A. red\nB. green" in expected.text
    for name in ("token_ids", "position_ids", "patches", "video_grid_thw", "timestamps_s"):
        np.testing.assert_array_equal(getattr(asked.prompt, name), getattr(expected, name))


def test_a_question_that_lists_its_options_is_left_as_it_is(clip: Path) -> None:
    text = "Which first? A. red B. green"
    assert Question(text, clip, ("red", "green")).whole == text
    assert Question("Which first?", clip).whole == "Which first?"


def test_what_cannot_be_asked_says_why_and_what_would_help(session: Session, clip: Path, folder: Path) -> None:
    broken = folder / "broken.mp4"
    broken.write_bytes(b"no video")
    cases = [
        (Question("  ", clip), "question: is empty"),
        (Question("What?", broken), "broken.mp4: "),
        (Question("What?", folder / "lost.mp4"), "lost.mp4: no such file"),
        (Question("word " * 400, clip), "at most 192 fit beside rollout.max_response_tokens=64; ask in fewer words"),
        (Question("What?", clip, subtitles=clip), r"not drawn for this checkpoint \(video.subtitles=false\)"),
    ]
    for question, sentence in cases:
        with pytest.raises(ConfigError, match=sentence):
            session.ask(question)


def test_subtitles_that_cannot_be_read_are_named_and_others_are_drawn(folder: Path, clip: Path) -> None:
    drawing = tiny_session(
        folder,
        ["video.subtitles=true", "video.min_pixels=12544", "video.max_pixels=12544", "rollout.max_model_tokens=2048"],
    )
    lines = folder / "lines.srt"
    lines.write_text("1\n00:00:00,000 --> 00:00:20,000\nHello\n")
    bare, drawn = (drawing.ask(Question("What?", clip, subtitles=file)) for file in (None, lines))
    assert (bare.clip.frames != drawn.clip.frames).any()
    lines.write_text("nothing")
    with pytest.raises(ConfigError, match=r"lines.srt: no cue in it can be read"):
        drawing.ask(Question("What?", clip, subtitles=lines))


def asked(session: Session, question: Question) -> Asked:
    return Asked(question, None, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "response", "answer", "tac"),
    [
        (("red", "green"), ANSWER, "A", 1.0),
        (("red", "green"), ANSWER.replace("<answer>A", "<answer>B"), "B", 0.0),
        (("red", "green"), "<think>At 00:02 it is red (A).", None, None),
        ((), "<think>At 00:02 a cup falls. So there are 3 cups.</think><answer>3</answer>", 3.0, 1.0),
        ((), "<think>At 00:02 a cup falls. So there are 3 cups.</think><answer>4</answer>", 4.0, 0.0),
        ((), "<think>So the man opens the door.</think><answer>The man opens the door</answer>", None, 1.0),
        ((), "", None, None),
    ],
)
def test_an_answer_is_read_without_a_right_one(
    options: tuple[str, ...], response: str, answer: str | float | None, tac: float | None, session: Session, clip: Path
) -> None:
    reading = session.read(asked(session, Question("Which is it?", clip, options)), response)
    by_name = {term["name"]: term for term in reading["terms"]}
    assert by_name["consistency"]["value"] == tac and by_name["consistency"]["why"]
    if answer is not None or not response:
        assert reading["answer"] == answer
    times = [claim["start_s"] for claim in reading["claims"]]
    assert times == ([2.0, 9.0] if "00:09" in response else [2.0] if "falls" in response else times)
