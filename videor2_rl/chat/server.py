"""The chat's page and what it asks for: clips come in, questions are put, answers stream out."""

from __future__ import annotations

import json
import logging
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from videor2_rl.chat.session import Answerer, Asked, Question, Session
from videor2_rl.config.errors import ConfigError
from videor2_rl.view.frames import picture
from videor2_rl.view.media import Copies, Playable
from videor2_rl.view.server import guarded_app, playable_file
from videor2_rl.view.shell import shell

logger = logging.getLogger(__name__)

PAGES = Path(__file__).parent / "static"
MAX_CLIP_MIB = 1024
MAX_SUBTITLES_MIB = 8
_KEPT = 16
"""Questions whose frames and prompt are kept, and files that were sent."""

T = TypeVar("T")


class Kept(Generic[T]):
    """The last things that were made, by a name that cannot be guessed."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._things: OrderedDict[str, T] = OrderedDict()

    def add(self, thing: T) -> tuple[str, list[T]]:
        """Its name, and what is no longer kept."""
        name = secrets.token_urlsafe(12)
        self._things[name] = thing
        return name, [self._things.popitem(last=False)[1] for _ in range(len(self._things) - _KEPT)]

    def __getitem__(self, name: str) -> T:
        if name not in self._things:
            raise HTTPException(404, f"{self._what} is no longer kept; give it again")
        return self._things[name]


@dataclass(frozen=True)
class NamedFile:
    """A clip or subtitles."""

    file: Path
    name: str
    """As the user calls it."""
    is_sent: bool
    """Lies in our folder."""


class ClipPath(BaseModel):
    """A clip that lies on the server's machine."""

    path: str


class Put(BaseModel):
    """A question as the page sends it."""

    clip: str
    text: str
    options: list[str] = []
    subtitles: str | None = None


def make_chat(
    session: Session, answerer: Answerer, *, name: str, folder: Path, media: Sequence[Path], token: str | None
) -> FastAPI:
    """The application.

    Args:
        name: of the checkpoint, for the page.
        folder: for files that are sent and playable copies; its owner removes it.
        media: folders below which clips may be named.
        token: see `Guard`.
    """
    app = guarded_app("Video-R2 RL chat", token=token)
    clips, questions = Kept[NamedFile]("the clip"), Kept[Asked]("the question")
    subtitles = Kept[NamedFile]("the subtitles file")
    roots = [root.resolve() for root in media]

    @app.get("/")
    def page() -> Response:
        return shell("Chat · Video-R2 RL", module="/chat/chat.js", styles=["/static/style.css", "/chat/chat.css"])

    @app.get("/api/chat")
    def about() -> dict[str, Any]:
        run = session.run
        return {
            "name": name,
            "names_paths": bool(roots),
            "subtitles": run.video.subtitles,
            "max_prompt_tokens": run.rollout.max_prompt_tokens,
            "max_response_tokens": run.rollout.max_response_tokens,
            "temperature": run.temperature,
            "fps": run.video.fps,
            "max_frames": run.video.max_frames,
        }

    _add_clips(app, clips, folder=folder, roots=roots)

    @app.put("/api/subtitles")
    async def send_subtitles(request: Request, name: str) -> dict[str, str]:
        sent = await _received(request, name, folder, max_mib=MAX_SUBTITLES_MIB)
        return {"subtitles": _keep(subtitles, sent), "name": sent.name}

    @app.post("/api/questions")
    def put(question: Put) -> dict[str, Any]:
        asked = session.ask(
            Question(
                text=question.text.strip(),
                video=clips[question.clip].file,
                options=tuple(option.strip() for option in question.options if option.strip()),
                subtitles=None if question.subtitles is None else subtitles[question.subtitles].file,
            )
        )
        return {
            "question": questions.add(asked)[0],
            "frame_times_s": [round(float(time), 6) for time in asked.clip.timestamps_s],
            "num_tokens": len(asked.prompt.token_ids),
            "prompt": asked.prompt.text,
        }

    @app.get("/api/questions/{question}/frames/{number}")
    def frame(question: str, number: int) -> Response:
        frames = questions[question].clip.frames
        if not 0 <= number < len(frames):
            raise HTTPException(404, f"the model sees {len(frames)} frames")
        data, media_type = picture(frames[number])
        return Response(data, media_type=media_type, headers={"Cache-Control": "private, max-age=3600"})

    @app.post("/api/questions/{question}/answer")
    async def answer(question: str) -> StreamingResponse:
        told = _told(session, answerer, questions[question])
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return StreamingResponse(told, media_type="text/event-stream", headers=headers)

    app.mount("/chat", StaticFiles(directory=PAGES), name="chat")
    return app


def _add_clips(app: FastAPI, clips: Kept[NamedFile], *, folder: Path, roots: Sequence[Path]) -> None:
    copies = Copies(folder)

    @app.put("/api/clips")
    async def send_clip(request: Request, name: str) -> dict[str, str]:
        sent = await _received(request, name, folder, max_mib=MAX_CLIP_MIB)
        await run_in_threadpool(_check_clip, sent)
        return {"clip": _keep(clips, sent), "name": sent.name}

    @app.post("/api/clips")
    def name_clip(clip: ClipPath) -> dict[str, str]:
        found = NamedFile(clip_below(clip.path, roots), Path(clip.path).name, is_sent=False)
        _check_clip(found)
        return {"clip": _keep(clips, found), "name": found.name}

    def playable(clip: str) -> Playable:
        return copies.playable(clips[clip].file)

    @app.get("/api/clips/{clip}")
    def times(clip: str) -> dict[str, Any]:
        """When each picture is shown; a copy is made before this answers, where one is needed."""
        return playable(clip).as_json()

    @app.get("/api/clips/{clip}/file")
    def clip_file(clip: str) -> FileResponse:
        return playable_file(playable(clip))


async def _told(session: Session, answerer: Answerer, asked: Asked) -> AsyncIterator[str]:
    """Events: the answer's parts, then how it is read; or why there is no more of it."""
    text, num_tokens, finish_reason = "", 0, None
    try:
        async with aclosing(answerer.answer(asked.prompt, session.sampling)) as parts:  # type: ignore[type-var]
            async for part in parts:
                text, num_tokens, finish_reason = text + part.text, part.num_tokens, part.finish_reason
                if part.text:
                    yield _event({"text": part.text})
        reading = await run_in_threadpool(session.read, asked, text)
        yield _event({"reading": reading, "num_tokens": num_tokens, "finish_reason": finish_reason})
    except Exception as error:
        # The answer has begun, with the status of a good one: what went wrong can only be told in it.
        logger.exception("an answer broke off")
        yield _event({"error": f"The answer broke off: {error or type(error).__name__}"})


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data)}\n\n"


async def _received(request: Request, name: str, folder: Path, *, max_mib: int) -> NamedFile:
    """The request's body as a file of our folder; of its name only the suffix counts.

    Raises:
        ConfigError: it is empty or too large.
    """
    suffix = Path(name).suffix.lower()
    file = folder / f"{secrets.token_hex(8)}{suffix if suffix[1:].isalnum() else ''}"
    size = 0
    try:
        with file.open("wb") as target:
            async for part in request.stream():
                size += len(part)
                if size > max_mib << 20:
                    raise ConfigError(f"{name}: is larger than {max_mib} MiB; name its path below a --media folder")
                await run_in_threadpool(target.write, part)
        if not size:
            raise ConfigError(f"{name}: is empty")
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    return NamedFile(file, name, is_sent=True)


def _keep(kept: Kept[NamedFile], one: NamedFile) -> str:
    """Its name; files that are no longer kept go."""
    name, gone = kept.add(one)
    for old in gone:
        if old.is_sent:
            old.file.unlink(missing_ok=True)
    return name


def _check_clip(clip: NamedFile) -> None:
    """Raises ConfigError where it cannot be decoded, and removes what was sent."""
    from videor2_rl.video.errors import VideoError
    from videor2_rl.video.timeline import opened

    try:
        with opened(str(clip.file)):
            pass
    except (VideoError, OSError) as error:
        if clip.is_sent:
            clip.file.unlink(missing_ok=True)
        why = error.detail if isinstance(error, VideoError) else error.strerror
        raise ConfigError(f"{clip.name}: {str(why).replace(f'{clip.file}: ', '')}; give a video file") from None


def clip_below(path: str, roots: Sequence[Path]) -> Path:
    """The file of a path, absolute or from one of the folders.

    Raises:
        ConfigError: it lies in none of them, or is not there; the two are not told apart.
    """
    for root in roots:
        resolved = (root / path).resolve()
        if resolved.is_relative_to(root) and resolved.is_file():
            return resolved
    raise ConfigError(f"{path}: is no file below the folders given with --media")
