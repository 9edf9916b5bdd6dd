"""A real HTTP server that speaks as much of the OpenAI API as a judge needs, and fails on demand."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Act:
    """What the server does with one request."""

    kind: Literal["reply", "status", "raw", "cut", "cut_in_body", "never"]
    text: str | list[dict[str, Any]] | None = ""
    """Of a reply also in parts."""
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    delay_s: float = 0.0
    finish_reason: str = "stop"
    message: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of a reply's message."""


def reply(
    text: str | list[dict[str, Any]] | None, *, delay_s: float = 0.0, finish_reason: str = "stop", **message: Any
) -> Act:
    """A chat completion."""
    return Act("reply", text, delay_s=delay_s, finish_reason=finish_reason, message=message)


def status(code: int, *, retry_after: str | None = None, message: str = "scripted") -> Act:
    """An error in OpenAI's form."""
    return Act("status", message, code, () if retry_after is None else (("Retry-After", retry_after),))


def raw(body: str, *, code: int = 200) -> Act:
    """Any body."""
    return Act("raw", body, code)


CUT = Act("cut")
"""The connection ends without a byte."""
CUT_IN_BODY = Act("cut_in_body")
"""The connection ends in the middle of the reply."""
NEVER = Act("never")


@dataclass
class FaultServer:
    """Runs in a thread of its own; `script` decides about each request by its number from 0 and its JSON body."""

    script: Callable[[int, dict[str, Any]], Act]
    requests: list[dict[str, Any]] = field(default_factory=list)
    """Bodies of the requests so far, probes included."""
    most_at_once: int = 0
    connections: int = 0
    """Opened so far; one may carry many requests."""
    port: int = 0

    def __enter__(self) -> FaultServer:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._at_once = 0
        self._open: set[asyncio.StreamWriter] = set()
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()
        asyncio.run_coroutine_threadsafe(self._cancel_all(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def prompts(self) -> list[dict[str, Any]]:
        """`requests` without the breaker's probes."""
        return [body for body in self.requests if body["messages"][0]["content"] != "Reply with OK."]

    def up(self) -> None:
        """Listen, on the same port as before."""
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(5)

    def down(self) -> None:
        """Refuse connections and cut those that are open."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(5)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._server.close()
        for writer in list(self._open):
            writer.transport.abort()

    async def _cancel_all(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        self.connections += 1
        try:
            while (body := await _read_request(reader)) is not None:
                number = len(self.requests)
                self.requests.append(body)
                self._at_once += 1
                self.most_at_once = max(self.most_at_once, self._at_once)
                try:
                    is_going_on = await self._perform(self.script(number, body), writer)
                finally:
                    self._at_once -= 1
                if not is_going_on:
                    return
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client went away, or the test is over
        finally:
            self._open.discard(writer)
            writer.transport.abort()

    async def _perform(self, act: Act, writer: asyncio.StreamWriter) -> bool:
        await asyncio.sleep(act.delay_s)
        if act.kind == "never":
            await asyncio.sleep(3600)
        if act.kind == "cut":
            return False
        if act.kind == "status":
            error = {"error": {"message": act.text, "type": "scripted", "code": act.status}}
            return await _respond(writer, json.dumps(error), act)
        if act.kind == "raw":
            return await _respond(writer, str(act.text or ""), act)
        message = {"role": "assistant", "content": act.text, **act.message}
        choice = {"index": 0, "message": message, "finish_reason": act.finish_reason}
        completion = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        return await _respond(writer, json.dumps(completion), act)


async def _read_request(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    head = await reader.readuntil(b"\r\n\r\n")
    lines = [line.partition(b":") for line in head.split(b"\r\n")[1:]]
    headers = {name.strip().lower(): value.strip() for name, _, value in lines}
    body = await reader.readexactly(int(headers.get(b"content-length", b"0")))
    request: dict[str, Any] = json.loads(body)
    request["authorization"] = headers.get(b"authorization", b"").decode()
    return request


async def _respond(writer: asyncio.StreamWriter, body: str, act: Act) -> bool:
    data = body.encode()
    head = [f"HTTP/1.1 {act.status} Scripted", "Content-Type: application/json", f"Content-Length: {len(data)}"]
    head += [f"{name}: {value}" for name, value in act.headers]
    writer.write("\r\n".join([*head, "", ""]).encode())
    if act.kind == "cut_in_body":
        writer.write(data[:5])
        await writer.drain()
        return False
    writer.write(data)
    await writer.drain()
    return True
