"""One request to an OpenAI-compatible server: its reply, or what went wrong in three kinds."""

from __future__ import annotations

import asyncio
import email.utils
import re
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rewards.judge import JudgePrompt, is_whole_before_cut
from rewards.text.thoughts import without_thoughts
from videor2_rl.config.judge import CallsConfig
from videor2_rl.judge.answers import Completion, NoCompletion, first_line, names_field, read_completion, words_of

if TYPE_CHECKING:
    from openai import AsyncOpenAI

# The server understood the request and will not serve it, whoever asks and whenever.
_REFUSALS = frozenset({400, 413, 422})
# Beside refusals: no such route or feature, or a crash in the code that would hold the reply to a schema.
_FAIL_A_SCHEMA = frozenset({404, 500, 501})
_SCHEMA_WORDS = re.compile(r"response_format|json_?schema|structured|guided|grammar", re.IGNORECASE)
# For every request the HTTP library looks at each connection of its pool: half of all time with 64 of them.
_CONNECTIONS_PER_POOL = 8


@dataclass(frozen=True)
class JudgeServer:
    """Where the judge is."""

    base_url: str
    model: str
    api_key: str | None = field(repr=False)
    mend: str
    """What the user can do when it stays away, as the middle of a sentence."""
    is_own: bool
    """Started by this run: proxies of the environment are for others."""


class Unavailable(Exception):
    """No usable reply, and another request may bring one: no connection, too slow, 429, 5xx, garbage, empty."""

    def __init__(self, reason: str, *, retry_after_s: float | None = None, may_be_the_schema: bool = False) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s
        self.may_be_the_schema = may_be_the_schema
        """Servers that cannot hold a reply to a schema fail so too."""


class Refused(Exception):
    """The server will not answer this request, however often it is asked."""

    def __init__(self, reason: str, *, mend: str | None) -> None:
        super().__init__(reason if mend is None else f"{reason}; {mend}")
        self.reason = reason
        self.mend = mend
        """How to leave out the parameter that it refuses; None: it names none."""


class NoVerdict(Exception):
    """The server has answered, without a verdict, and would do so again."""


@dataclass(frozen=True)
class Problem:
    """Why a server does not complete a small request."""

    reason: str
    mend: str | None
    """None: whatever helps against a server that is away."""


class Connection:
    """Sends requests; keeps its connections open. For one event loop."""

    def __init__(self, server: JudgeServer, calls: CallsConfig, *, notify: Callable[[str], None]) -> None:
        """
        Args:
            notify: gets a sentence when requests change their form for this server.
        """
        self._server = server
        self._calls = calls
        self._notify = notify
        self._limit_name = "max_tokens"
        self._pools: list[_Pool] = []

    @property
    def sampling(self) -> dict[str, Any]:
        """What goes with every prompt."""
        calls = self._calls
        extra = calls.extra_body or {}
        # Last: these have keys of their own, or none.
        fields = {**extra, "temperature": 0.0, "seed": calls.seed, "max_tokens": calls.max_tokens}
        return {name: value for name, value in fields.items() if extra.get(name, value) is not None}

    async def send(self, prompt: JudgePrompt, *, structured: bool) -> str:
        """The text of the reply.

        Raises:
            Unavailable, Refused, NoVerdict: there is none.
        """
        completion = await self._completion(prompt, structured=structured)
        text = completion.text
        if completion.finish_reason == "length":
            limit = f"judge.calls.max_tokens={self._calls.max_tokens}"
            if not without_thoughts(text).strip():
                raise NoVerdict(f"no text within {limit}; raise it")
            if not is_whole_before_cut(text):
                raise NoVerdict(f"cut off at {limit} before the verdict; raise it")
        if text.strip():
            return text
        if completion.refusal:
            raise NoVerdict(f"the model declines: {completion.refusal}")
        raise Unavailable("an empty reply")

    async def probe(self) -> Problem | None:
        """None when the server completes a small request, else what is wrong. What the reply says does not matter."""
        prompt = JudgePrompt("answer", "probe", "Reply with OK.", "Are you there?", None)
        try:
            await self._completion(prompt, structured=False)
        except Refused as error:
            return Problem(error.reason, error.mend)
        except Unavailable as error:
            return Problem(str(error), None)
        return None

    async def close(self) -> None:
        for pool in self._pools:
            await pool.client.close()
        self._pools = []

    async def _completion(self, prompt: JudgePrompt, *, structured: bool) -> Completion:
        """The reply to a prompt, asked for in the form that the server takes."""
        request = self._request(prompt, structured=structured, limit_name=self._limit_name)
        try:
            return await self._answer(request)
        except Refused as error:
            if "max_tokens" not in request or not names_field(error.reason, "max_tokens"):
                raise
            renamed = self._request(prompt, structured=structured, limit_name="max_completion_tokens")
            try:
                completion = await self._answer(renamed)
            except Refused:
                raise error from None
            if self._limit_name == "max_tokens":
                self._limit_name = "max_completion_tokens"
                self._notify(f"the judge at {self._server.base_url} takes max_completion_tokens in place of max_tokens")
            return completion

    def _request(self, prompt: JudgePrompt, *, structured: bool, limit_name: str) -> dict[str, Any]:
        options = {limit_name if name == "max_tokens" else name: value for name, value in self.sampling.items()}
        if structured and prompt.schema is not None:
            options["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": prompt.purpose, "schema": prompt.schema, "strict": True},
            }
        messages = [{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}]
        return {"model": self._server.model, "messages": messages, **options}

    async def _answer(self, request: Mapping[str, Any]) -> Completion:
        import openai

        pool = self._pool()
        pool.under_way += 1
        try:
            # The library's own timeout is one of each read: a server that drips bytes would pass it.
            body = await asyncio.wait_for(pool.post(request), self._calls.deadline_s)
            return read_completion(body)
        except (asyncio.TimeoutError, openai.APITimeoutError):
            raise Unavailable(f"no reply within {self._calls.deadline_s:g} s") from None
        except openai.APIConnectionError as error:
            raise Unavailable(f"no connection: {first_line(error.__cause__ or error)}") from None
        except openai.APIStatusError as error:
            said = words_of(error.response.text) or error.message
            reason = f"status {error.status_code}: {first_line(said)}"
            raise self._failure(reason, error.status_code, request, error.response.headers) from None
        except NoCompletion as error:
            raise self._failure(str(error), error.code, request, {}) from None
        finally:
            pool.under_way -= 1

    def _failure(
        self, reason: str, code: int | None, request: Mapping[str, Any], headers: Mapping[str, str]
    ) -> Refused | Unavailable:
        """What an answer that is no reply means for the request."""
        if code in _REFUSALS:
            return Refused(reason, mend=self._mend(reason, request))
        is_schema = code in _FAIL_A_SCHEMA or _SCHEMA_WORDS.search(reason) is not None
        return Unavailable(reason, retry_after_s=retry_after_s(headers), may_be_the_schema=is_schema)

    def _mend(self, reason: str, request: Mapping[str, Any]) -> str | None:
        """How to leave out the field that a refusal names."""
        named = [name for name in request if name not in ("model", "messages") and names_field(reason, name)]
        if not named:
            return None
        name = named[0]
        if name == "response_format":
            return "leave it out with judge.calls.structured=false"
        if name in ("max_tokens", "max_completion_tokens"):
            return "lower judge.calls.max_tokens, or leave it out with judge.calls.extra_body={max_tokens:null}"
        if name in ("temperature", "seed"):
            return f"leave it out with judge.calls.extra_body={{{name}:null}}"
        return f"take {name} out of judge.calls.extra_body"

    def _pool(self) -> _Pool:
        """The one with the fewest requests under way, a new one where all are full."""
        pool = min(self._pools, key=lambda pool: pool.under_way, default=None)
        if pool is None or pool.under_way >= _CONNECTIONS_PER_POOL:
            pool = _Pool(_open(self._server, deadline_s=self._calls.deadline_s))
            self._pools.append(pool)
        return pool


@dataclass
class _Pool:
    """Some connections."""

    client: AsyncOpenAI
    under_way: int = 0

    async def post(self, request: Mapping[str, Any]) -> str:
        """The body of the answer."""
        import httpx

        # `chat.completions.create` spends as long on checking its arguments as all the rest takes.
        return (await self.client.post("/chat/completions", body=request, cast_to=httpx.Response)).text


def _open(server: JudgeServer, *, deadline_s: float) -> AsyncOpenAI:
    import openai

    # Loading the certificates takes 0.1 s, which a plain connection has no use for; an empty set trusts nobody.
    is_plain = server.base_url.startswith("http://")
    verify = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if is_plain else True
    return openai.AsyncOpenAI(
        base_url=server.base_url,
        # Servers without keys ignore it; the library insists on one.
        api_key=server.api_key or "none",
        max_retries=0,
        timeout=deadline_s,
        http_client=openai.DefaultAsyncHttpxClient(trust_env=not server.is_own, verify=verify),
    )


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that a Retry-After header asks for, given as a number or a date; None where it asks for nothing."""
    value = headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None
