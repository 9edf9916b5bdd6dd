"""The pages and what they ask for. Nothing here writes into a run but its index and playable copies of clips."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.middleware.gzip import GZipMiddleware

from videor2_rl.config.errors import ConfigError
from videor2_rl.view.frames import picture
from videor2_rl.view.group import shown_group
from videor2_rl.view.media import ClipError, Playable
from videor2_rl.view.pages import chosen, compared, curves_of, overview, run_card, series_of
from videor2_rl.view.queries import FILTERS, SORTS, GroupQuery, counts_of_filters, group_page, neighbours
from videor2_rl.view.run import RunFolder
from videor2_rl.view.security import Guard
from videor2_rl.view.shell import shell
from videor2_rl.view.tokens import load_tokenizer, tokenizer_file

STATIC = Path(__file__).parent / "static"
TEMPLATES = Path(__file__).parents[1] / "report" / "templates"
POLL_S = 0.5
"""Between two looks at a live run."""
_PAGES = ("/", "/rollouts", "/group", "/compare", "/workers")
MAX_PAGE = 200


Scale = Callable[[Path, Mapping[str, int]], str]
"""Tells the run in a folder other sizes of its pools and says what it did, as `videor2_rl.scale`."""


class Sizes(BaseModel):
    """What somebody wants of a run's pools."""

    sizes: dict[str, int]


def make_app(runs: Sequence[RunFolder], *, token: str | None = None, scale: Scale | None = None) -> FastAPI:
    """The application over some runs; see `Guard` for the token.

    Args:
        scale: None: nothing can be told to a run from here.
    """
    app = guarded_app("Video-R2 RL viewer", token=token)
    _add_pages(app)
    _add_runs(app, runs, may_scale=scale is not None)
    if scale is not None:
        _add_control(app, runs, scale)
    _add_rollouts(app, runs)
    _add_clips(app, runs)
    return app


def guarded_app(title: str, *, token: str | None) -> FastAPI:
    """An application that answers whom `Guard` lets in, with the parts that all pages share."""
    app = FastAPI(title=title, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(GZipMiddleware, minimum_size=2000, compresslevel=5)
    app.add_middleware(Guard, token=token)
    app.add_exception_handler(ConfigError, _refused)
    app.add_exception_handler(ClipError, _no_clip)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")

    @app.get("/colours.css")
    def colours() -> FileResponse:
        """The report's colours, which the pages have too."""
        return FileResponse(TEMPLATES / "colours.css", media_type="text/css")

    return app


def _add_pages(app: FastAPI) -> None:
    vendor = "/static/vendor"

    def page() -> Response:
        styles, scripts = [f"{vendor}/uPlot.min.css", "/static/style.css"], [f"{vendor}/uPlot.iife.min.js"]
        return shell("Video-R2 RL", module="/static/app.js", styles=styles, scripts=scripts)

    for path in _PAGES:
        app.add_api_route(path, page, methods=["GET"])


def _add_control(app: FastAPI, runs: Sequence[RunFolder], scale: Scale) -> None:
    @app.post("/api/runs/{place}/scale")
    def resize(place: int, wanted: Sizes) -> dict[str, str]:
        return {"said": scale(_run(runs, place).folder, wanted.sizes)}


def _add_runs(app: FastAPI, runs: Sequence[RunFolder], *, may_scale: bool) -> None:
    @app.get("/api/runs")
    def list_runs() -> list[dict[str, Any]]:
        return [{k: v for k, v in run_card(run).items() if k not in ("settings", "made_by")} for run in runs]

    @app.get("/api/runs/{place}")
    def one_run(place: int) -> dict[str, Any]:
        return {**overview(_run(runs, place)), "may_scale": may_scale}

    @app.get("/api/runs/{place}/series")
    def series(place: int, name: list[str] = Query([]), after: int = 0) -> dict[str, Any]:  # noqa: B008
        return series_of(_run(runs, place), name, after=after)

    @app.get("/api/runs/{place}/skipped")
    def skipped(place: int) -> list[dict[str, Any]]:
        return _run(runs, place).skipped()

    @app.get("/api/curves")
    def curves(places: str = "") -> list[dict[str, Any]]:
        return curves_of(chosen(runs, places))

    @app.get("/api/compare")
    def compare(places: str = "") -> dict[str, Any]:
        return compared(chosen(runs, places))

    @app.get("/api/runs/{place}/events")
    async def events(place: int, request: Request) -> StreamingResponse:
        run = _run(runs, place)
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return StreamingResponse(_events(run, request), media_type="text/event-stream", headers=headers)


async def _events(run: RunFolder, request: Request) -> AsyncIterator[str]:
    """An event whenever something new was logged, with the last step as its id; a comment now and then between."""

    seen: dict[str, Any] = {}
    quiet = 0
    while not await request.is_disconnected():
        state = await run_in_threadpool(run.state)
        if state != seen:
            seen, quiet = state, 0
            yield f"id: {state['step']}\nevent: state\ndata: {json.dumps(state)}\n\n"
        elif (quiet := quiet + 1) % 30 == 0:
            # So that a tunnel does not take the connection for dead, and a reader that is gone is noticed.
            yield ": still here\n\n"
        await asyncio.sleep(POLL_S)


def _add_rollouts(app: FastAPI, runs: Sequence[RunFolder]) -> None:
    @app.get("/api/filters")
    def filters() -> dict[str, Any]:
        shown = [{"name": one.name, "label": one.label, "about": one.about} for one in FILTERS]
        return {"filters": shown, "sorts": list(SORTS)}

    @app.get("/api/runs/{place}/filters")
    def counts(place: int) -> dict[str, int]:
        with _run(runs, place).index() as index:
            return {} if index is None else counts_of_filters(index)

    @app.get("/api/runs/{place}/groups")
    def groups(
        place: int,
        filter: list[str] = Query([]),  # noqa: B008
        text: str = "",
        sample: str = "",
        first_step: int | None = None,
        last_step: int | None = None,
        reward_min: float | None = None,
        reward_max: float | None = None,
        where: str = "",
        sort: str = "newest",
        after: str = "",
        limit: int = Query(50, ge=1, le=MAX_PAGE),
    ) -> dict[str, Any]:
        query = GroupQuery(
            tuple(filter), text, sample, first_step, last_step, reward_min, reward_max, where=where, sort=sort
        )
        with _run(runs, place).index() as index:
            if index is None:
                return {"rows": [], "total": 0, "next": None}
            return group_page(index, query, after=_cursor(after), limit=limit)

    @app.get("/api/runs/{place}/groups/{step}/{group_id}")
    def group(place: int, step: int, group_id: int) -> dict[str, Any]:
        run = _run(runs, place)
        record, settings = _record(run, step, group_id), run.settings
        file = tokenizer_file(run.folder, settings)
        tokenizer = None if file is None else load_tokenizer(file)
        with run.index() as index:
            assert index is not None, "a group was found in it"
            beside = neighbours(index, step=step, group_id=group_id)
        return {**shown_group(record, settings, step=step, tokenizer=tokenizer), **beside, "run": run.name}


def _add_clips(app: FastAPI, runs: Sequence[RunFolder]) -> None:
    def playable(place: int, step: int, group_id: int) -> Playable:
        run = _run(runs, place)
        return run.copies.playable(run.clip(_record(run, step, group_id)))

    @app.get("/api/runs/{place}/groups/{step}/{group_id}/clip")
    def clip(place: int, step: int, group_id: int) -> dict[str, Any]:
        """When each picture is shown; a copy is made before this answers, where one is needed."""
        return playable(place, step, group_id).as_json()

    @app.get("/api/runs/{place}/groups/{step}/{group_id}/clip/file")
    def clip_file(place: int, step: int, group_id: int) -> FileResponse:
        return playable_file(playable(place, step, group_id))

    @app.get("/api/runs/{place}/groups/{step}/{group_id}/frames/{number}")
    def frame(place: int, step: int, group_id: int, number: int) -> Response:
        run = _run(runs, place)
        record = _record(run, step, group_id)
        film = run.films.film(record, run.clip(record), run.settings, run.folder)
        if not 0 <= number < len(film.frames):
            raise HTTPException(404, f"the model saw {len(film.frames)} frames")
        data, media_type = picture(film.frames[number])
        return Response(data, media_type=media_type, headers={"Cache-Control": "private, max-age=3600"})


def playable_file(found: Playable) -> FileResponse:
    """The file for a browser, in ranges."""
    media_type = "video/webm" if found.file.suffix.lower() == ".webm" else "video/mp4"
    return FileResponse(found.file, media_type=media_type, headers={"Cache-Control": "private, max-age=3600"})


def _run(runs: Sequence[RunFolder], place: int) -> RunFolder:
    if not 0 <= place < len(runs):
        raise HTTPException(404, f"there are {len(runs)} runs")
    return runs[place]


def _record(run: RunFolder, step: int, group_id: int) -> dict[str, Any]:
    record = run.group(step=step, group_id=group_id)
    if record is None:
        raise HTTPException(404, f"step {step} has no group {group_id}")
    return record


def _cursor(text: str) -> list[float] | None:
    if not text:
        return None
    parts = text.split(",")
    try:
        values = [float(part) for part in parts]
    except ValueError:
        values = []
    if len(values) != 3 or not all(map(math.isfinite, values)):
        raise ConfigError(f"after: expected three numbers, found {text}")
    return values


def _refused(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 400)


def _no_clip(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 404)
