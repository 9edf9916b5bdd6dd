"""A judge's server for benchmarks: answers every call after a stated time, in a process of its own."""

from __future__ import annotations

import asyncio
import itertools
import json
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

CLAIMS_WORDS = b"You list the timed events"
"""In a request that asks for claims; every other one asks for a verdict."""


@contextmanager
def stub_judge(*, latency_s: float) -> Iterator[str]:
    """The base URL of an OpenAI-compatible server that takes `latency_s` seconds for each call, however many come."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=_run_server, args=(latency_s, theirs), daemon=True)
    server.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}/v1"
    finally:
        server.terminate()
        server.join()


def reply_to(body: bytes, number: int) -> str:
    """What a request is answered with: two claims that no other reply has, or a verdict, every third of them "no".

    Args:
        number: of the request; sentences that had been seen before would cost a sentence encoder nothing.
    """
    if CLAIMS_WORDS in body:
        events = (f"A red square moves left, view {number}.", f"A blue circle appears, view {number}.")
        return json.dumps({"claims": [{"time": f"00:0{i}", "event": event} for i, event in enumerate(events)]})
    return json.dumps({"reason": "as read", "consistent": number % 3 != 0})


def _run_server(latency_s: float, ready: Connection) -> None:
    asyncio.run(_serve(latency_s, ready))


async def _serve(latency_s: float, ready: Connection) -> None:
    numbers = itertools.count(1)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await _read_head(reader):
            length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            text = reply_to(await reader.readexactly(length), next(numbers))
            await asyncio.sleep(latency_s)
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
            reply = json.dumps(
                {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
            )
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(reply)
            )
            writer.write(reply.encode())
            await writer.drain()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    ready.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


async def _read_head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""
