"""The judge's client: many prompts in, a reply or a reason for each out."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rewards.judge import READERS, JudgePrompt, Purpose
from rewards.types import JudgeReply
from videor2_rl.background import BackgroundLoop
from videor2_rl.config.errors import ConfigError
from videor2_rl.config.judge import CallsConfig
from videor2_rl.judge.breaker import Breaker
from videor2_rl.judge.cache import ReplyCache, cache_key
from videor2_rl.judge.connection import Connection, JudgeServer, NoVerdict, Refused, Unavailable
from videor2_rl.judge.counts import CallCounts

log = logging.getLogger(__name__)

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0
_MAX_FRESH_STARTS = 3


class JudgeClient:
    """Asks one server. Blocking from outside, concurrent within; several threads share its calls and its breaker.

    A server that is away costs no call its reply: the breaker holds every call until the server is back. A call fails
    for good only where the server answers others: refused, or out of retries.
    """

    def __init__(
        self, server: JudgeServer, calls: CallsConfig, *, concurrency: int, notify: Callable[[str], None] = log.warning
    ) -> None:
        """
        Args:
            concurrency: this client's part of `calls.concurrency`.
            notify: gets a sentence when calling pauses, goes on, or has to do without structured replies.
        """
        self.counts = CallCounts()
        self._server = server
        self._calls = calls
        self._notify = notify
        self._connection = Connection(server, calls, notify=notify)
        self._cache = None if calls.cache_dir is None else ReplyCache(Path(calls.cache_dir).expanduser())
        self._takes_schema: dict[Purpose, bool] = {}
        """Of the purposes of which it is known."""
        self._jitter = random.Random()
        self._loop = BackgroundLoop("judge client")
        self._asks = 0
        """Under way."""
        self._concurrency = concurrency
        self._permits = asyncio.Semaphore(concurrency)
        self._breaker = Breaker(
            server.base_url,
            mend=server.mend,
            failures=calls.breaker_failures,
            probe_every_s=calls.probe_every_s,
            patience_s=calls.patience_s,
            probe=self._probe,
            notify=notify,
        )

    def check(self) -> None:
        """Ask something small, before a run starts.

        Raises:
            ConfigError: the server does not answer; the sentence names address, model and mend.
        """
        problem = self._loop.run(self._connection.probe())
        if problem is not None:
            raise ConfigError(
                f"judge: {self._server.base_url} does not complete a test request to model {self._server.model} "
                f"({problem.reason}); {problem.mend or self._server.mend}"
            )

    def ask(self, prompts: Sequence[JudgePrompt]) -> list[JudgeReply]:
        """A reply, or why there is none, for each prompt; equal prompts are asked once.

        Raises:
            JudgeDown: the server stayed away for longer than `patience_s`.
        """
        return self._loop.run(self._ask(prompts))

    def resize(self, concurrency: int) -> None:
        """So many calls at a time from now on; nothing is waited for, those under way too many end first."""
        self._loop.begin(self._resize(concurrency))

    async def _resize(self, concurrency: int) -> None:
        change, self._concurrency = concurrency - self._concurrency, concurrency
        for _ in range(change):
            self._permits.release()
        for _ in range(-change):
            await self._permits.acquire()

    def take_counts(self) -> CallCounts:
        """What happened since the last time, whichever thread asked."""
        return self._loop.run(self._take_counts())

    def close(self) -> None:
        """Let go of the connections."""
        self._loop.run(self._connection.close())
        self._loop.close()

    async def _take_counts(self) -> CallCounts:
        self.counts.pause_s, self._breaker.paused_s = self._breaker.paused_s, 0.0
        counts, self.counts = self.counts, CallCounts()
        return counts

    async def _probe(self) -> str | None:
        problem = await self._connection.probe()
        return None if problem is None else problem.reason

    async def _ask(self, prompts: Sequence[JudgePrompt]) -> list[JudgeReply]:
        sampling = {**self._connection.sampling, "structured": self._calls.structured}
        keys = [cache_key(prompt, model=self._server.model, sampling=sampling) for prompt in prompts]
        distinct = dict(zip(keys, prompts, strict=True))
        replies = {
            key: JudgeReply(text, None)
            for key, prompt in distinct.items()
            if (text := self._cached(key, prompt)) is not None
        }
        self.counts.cached += len(replies)
        tasks = {
            key: asyncio.create_task(self._call(key, prompt)) for key, prompt in distinct.items() if key not in replies
        }
        self._asks += 1
        try:
            await asyncio.gather(*tasks.values())
        finally:
            await _end(*tasks.values())
            self._asks -= 1
            if not self._asks:
                await self._breaker.stop()
        replies |= {key: task.result() for key, task in tasks.items()}
        answers = [replies[key] for key in keys]
        self._count(prompts, answers)
        return answers

    def _cached(self, key: str, prompt: JudgePrompt) -> str | None:
        text = None if self._cache is None else self._cache.get(key)
        # What an earlier version could read and this one does not is asked again.
        return None if text is None or READERS[prompt.purpose](text) is None else text

    def _count(self, prompts: Sequence[JudgePrompt], answers: Sequence[JudgeReply]) -> None:
        for prompt, answer in zip(prompts, answers, strict=True):
            if answer.text is None:
                self.counts.failures += 1
                self.counts.last_problem = answer.failure
                continue
            self.counts.replies += 1
            if READERS[prompt.purpose](answer.text) is None:
                self.counts.unreadable += 1
                self.counts.last_problem = f"unreadable {prompt.purpose} reply {answer.text[:80]!r}"

    async def _call(self, key: str, prompt: JudgePrompt) -> JudgeReply:
        async with self._permits:
            reply = await self._insist(prompt)
        # An unreadable reply is not kept: another run may have a better server under the same name.
        if self._cache is not None and reply.text is not None and READERS[prompt.purpose](reply.text) is not None:
            self._cache.put(key, reply.text, prompt=prompt, model=self._server.model)
        return reply

    async def _insist(self, prompt: JudgePrompt) -> JudgeReply:
        """Ask until there is a reply, a refusal, or no retry left while the server answers others."""
        failed, answers_at_first, fresh_starts = 0, 0, 0
        while True:
            # An outage must not use up the retries; a server that only answers probes must not be asked for ever.
            if await self._breaker.wait_closed() and fresh_starts < _MAX_FRESH_STARTS:
                failed, fresh_starts = 0, fresh_starts + 1
            try:
                text = await self._hedged(prompt)
            except Refused as error:
                return JudgeReply(None, str(error))
            except NoVerdict as error:
                self._breaker.answered()
                return JudgeReply(None, str(error))
            except Unavailable as error:
                failed += 1
                if failed == 1:
                    answers_at_first = self._breaker.answers
                self._breaker.failed(str(error))
                if failed > self._calls.retries and self._breaker.answers > answers_at_first:
                    return JudgeReply(None, f"{error} (after {failed} requests)")
                if failed > self._calls.retries:
                    self._breaker.trip(str(error))
                else:
                    await asyncio.sleep(self._wait_s(failed, error.retry_after_s))
                self.counts.retries += 1
            else:
                self._breaker.answered()
                return JudgeReply(text, None)

    def _wait_s(self, failed: int, asked_s: float | None) -> float:
        """Seconds before the next request: what the server asked for and a little more, else a random share of a
        doubling bound, so that calls that failed together do not come back together."""
        if asked_s is not None:
            return min(asked_s, self._calls.patience_s) * self._jitter.uniform(1.0, 1.1)
        return self._jitter.uniform(0.0, min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2**failed))

    async def _hedged(self, prompt: JudgePrompt) -> str:
        """One request, and a second beside it where the first is slow and the bound has room."""
        first = asyncio.create_task(self._request(prompt))
        hedge: asyncio.Task[str] | None = None
        try:
            if self._calls.hedge_after_s is not None:
                await asyncio.wait({first}, timeout=self._calls.hedge_after_s)
                if not first.done() and not self._permits.locked():
                    await self._permits.acquire()  # at once: a call that waits for a second permit could block all
                    self.counts.hedges += 1
                    hedge = asyncio.create_task(self._request(prompt))
                    hedge.add_done_callback(lambda _: self._permits.release())
            if hedge is None:
                return await first
            done, _ = await asyncio.wait({first, hedge}, return_when=asyncio.FIRST_COMPLETED)
            winner = next((task for task in done if task.exception() is None), None)
            # Where the quicker one failed, the other may still succeed.
            return await (winner or (first if hedge in done else hedge))
        finally:
            await _end(first, *([hedge] if hedge else []))

    async def _request(self, prompt: JudgePrompt) -> str:
        started = time.perf_counter()
        knows_schemas = self._takes_schema.get(prompt.purpose)
        structured = self._calls.structured and prompt.schema is not None and knows_schemas is not False
        try:
            text = await self._send(prompt, structured=structured)
        except (Refused, Unavailable) as error:
            # A server that has answered a schema before fails for another reason.
            is_outage = isinstance(error, Unavailable) and (knows_schemas or not error.may_be_the_schema)
            if not structured or is_outage:
                raise
            text = await self._send(prompt, structured=False)
            # It was the schema, then, and not the prompt.
            if False not in self._takes_schema.values():
                self._notify(
                    f"the judge at {self._server.base_url} takes no response_format ({error}): replies are free text"
                )
            self._takes_schema[prompt.purpose] = False
        else:
            if structured:
                self._takes_schema[prompt.purpose] = True
        self.counts.latency_s += time.perf_counter() - started
        self.counts.answered += 1
        return text

    async def _send(self, prompt: JudgePrompt, *, structured: bool) -> str:
        self.counts.requests += 1
        return await self._connection.send(prompt, structured=structured)


async def _end(*tasks: asyncio.Task[str] | asyncio.Task[JudgeReply]) -> None:
    """Cancel what still runs, and take in the exceptions of what does not."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
