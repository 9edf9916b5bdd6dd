"""Ask a checkpoint about a clip: the answer comes as it is written, and its times lead the clip there.

    python -m videor2_rl.chat outputs/demo/grpo                              # a page
    python -m videor2_rl.chat outputs/demo/grpo --media outputs/demo_data    # clips there are named by their path
    python -m videor2_rl.chat outputs/demo/grpo --ask "Which colour appears first?" --video clip.mp4
    python -m videor2_rl.chat models/Qwen2.5-VL-7B-Instruct video.max_frames=16

CHECKPOINT is a folder in Hugging Face's layout, or a run's. A run's checkpoint is asked as it was trained: its prompt,
frames, overlays, limits and reward come from the run's config.yaml; KEY=VALUE changes them (conf/chat.yaml has the
values of other checkpoints).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from videor2_rl.app import quiet_logging, user_errors
from videor2_rl.config.command_line import Parser
from videor2_rl.config.errors import ConfigError
from videor2_rl.view.serving import add_place_options, opened_place

if TYPE_CHECKING:
    from videor2_rl.chat.session import Answerer, Question, Session
    from videor2_rl.config.runs import ChatRun
    from videor2_rl.view.serving import Place


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = Parser(
        prog="python -m videor2_rl.chat", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="a folder with a model, or a run's")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", default=[], help="video.fps=1, temperature=1, ...")
    add_place_options(parser, port=8801)
    terminal = parser.add_argument_group("in the terminal")
    terminal.add_argument("--ask", metavar="QUESTION", help="print the answer instead of serving a page")
    terminal.add_argument("--video", metavar="CLIP", type=Path, help="of --ask: the clip")
    terminal.add_argument("--option", metavar="TEXT", action="append", default=[], help="of --ask: A, then B, ...")
    terminal.add_argument("--subtitles", metavar="FILE", type=Path, help="of --ask: drawn on the frames")
    terminal.add_argument("--json", action="store_true", help="of --ask: one JSON object, with how the answer is read")
    arguments = parser.parse_mixed(argv)
    if (arguments.ask is None) != (arguments.video is None):
        parser.error("--ask QUESTION and --video CLIP belong together")
    if arguments.ask is None and (arguments.option or arguments.subtitles or arguments.json):
        parser.error("--option, --subtitles and --json belong to --ask")
    quiet_logging()
    with user_errors():
        from videor2_rl.chat.settings import chat_run

        run, _ = chat_run(arguments.checkpoint, arguments.overrides)
        name = str(arguments.checkpoint)
        with tempfile.TemporaryDirectory(prefix="videor2_chat_") as folder:
            # A chat writes nothing into the run that it is of, nor into its cache of clips.
            run = replace(run, video=replace(run.video, cache_dir=f"{folder}/cache"))
            if arguments.ask is None:
                place = opened_place(host=arguments.host, port=arguments.port, token=arguments.token)
                asyncio.run(serve(run, place, name=name, folder=Path(folder), media=_folders(arguments.media)))
                return
            from videor2_rl.chat.session import Question

            video, subtitles = _file(arguments.video, "--video"), arguments.subtitles
            question = Question(
                arguments.ask,
                video,
                tuple(arguments.option),
                None if subtitles is None else _file(subtitles, "--subtitles"),
            )
            asyncio.run(ask(run, question, as_json=arguments.json))


@dataclass(frozen=True)
class Ready:
    """What answers questions."""

    session: Session
    answerer: Answerer


@asynccontextmanager
async def ready(run: ChatRun) -> AsyncIterator[Ready]:
    """Tokenizer, judge and engine, the last of which takes its time.

    Raises:
        ConfigError: weights that do not fit the model, or a judge that does not answer.
    """
    from videor2_rl.chat.settings import device_of
    from workers.rollout.engine import engine_spec, rollout_env

    device = device_of(run)
    # Before PyTorch and vLLM are loaded, which read it; what the user has set stays.
    for variable, value in rollout_env(run.rollout, device).items():
        os.environ.setdefault(variable, value)
    from videor2_rl.chat.session import Session
    from videor2_rl.judge.access import connected_judge
    from videor2_rl.model.weights import check_weights
    from workers.rollout.answers import answering

    check_weights(run.model.path, key="CHECKPOINT")
    with connected_judge(run.judge) as judge:
        session = Session(run, judge=judge)
        async with answering(engine_spec(run.rollout, run.model, device=device)) as answerer:
            yield Ready(session, answerer)


async def serve(run: ChatRun, place: Place, *, name: str, folder: Path, media: Sequence[Path]) -> None:
    """Serve the page until interrupted; prints the address when the engine is ready."""
    import uvicorn

    from videor2_rl.chat.server import make_chat

    print(f"{name}: starting the engine", file=sys.stderr)
    async with ready(run) as there:
        app = make_chat(there.session, there.answerer, name=name, folder=folder, media=media, token=place.token)
        print(f"{name}: {place.address} (Ctrl-C ends it)", flush=True)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
        await uvicorn.Server(config).serve(sockets=[place.listener])


async def ask(run: ChatRun, question: Question, *, as_json: bool) -> None:
    """Print the answer as it comes, and on stderr how it is read; or all of it as one JSON object.

    Raises:
        ConfigError: the question cannot be asked.
    """
    async with ready(run) as there:
        session = there.session
        asked = session.ask(question)
        text, num_tokens, finish_reason = "", 0, None
        async with aclosing(there.answerer.answer(asked.prompt, session.sampling)) as parts:  # type: ignore[type-var]
            async for part in parts:
                text, num_tokens, finish_reason = text + part.text, part.num_tokens, part.finish_reason
                if not as_json:
                    print(part.text, end="", flush=True)
        reading = session.read(asked, text)
    if as_json:
        from videor2_rl.run.files import json_line

        times = [round(float(time), 6) for time in asked.clip.timestamps_s]
        said = {"text": text, "finish_reason": finish_reason, "num_tokens": num_tokens, "frame_times_s": times}
        sys.stdout.buffer.write(json_line({**said, **reading}))
        return
    print()
    for term in reading["terms"]:
        value = "n/a" if term["value"] is None else f"{term['value']:g}"
        print(f"{term['label']}: {value} ({term['why']})", file=sys.stderr)


def _file(path: Path, option: str) -> Path:
    if not path.is_file():
        raise ConfigError(f"{option}: there is no file {path}")
    return path.absolute()


def _folders(media: Sequence[Path]) -> Sequence[Path]:
    for folder in media:
        if not folder.is_dir():
            raise ConfigError(f"--media: there is no folder {folder}")
    return media


if __name__ == "__main__":
    main()
