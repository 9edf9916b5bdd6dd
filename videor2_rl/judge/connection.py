"""One request to an OpenAI-compatible server: its reply, or what went wrong in two kinds."""

from __future__ import annotations

import asyncio
import email.utils
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rewards.judge import JudgePrompt
from videor2_rl.config.judge import CallsConfig

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

# The server understood the request and will not serve it, whoever asks and whenever.
_REFUSALS = frozenset({400, 413, 422})
_MAX_MESSAGE_CHARS = 200
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

    def __init__(self, reason: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class Refused(Exception):
    """The server will not answer this request, however often it is asked."""


class Connection:
    """Sends requests; keeps its connections open. For one event loop."""

    def __init__(self, server: JudgeServer, calls: CallsConfig) -> None:
        self._server = server
        self._calls = calls
        self._pools: list[_Pool] = []

    @property
    def sampling(self) -> dict[str, Any]:
        """What goes with every prompt."""
        calls = self._calls
        return {
            **calls.extra_body,
            # Last: these have keys of their own, or none.
            "temperature": 0.0,
            "seed": calls.seed,
            "max_tokens": calls.max_tokens,
        }

    async def send(self, prompt: JudgePrompt, *, structured: bool) -> str:
        """The text of the reply.

        Raises:
            Unavailable, Refused: there is none.
        """
        text, finish_reason = await self._completion(prompt, structured=structured)
        if text and text.strip():
            return text
        if finish_reason == "length":
            raise Unavailable(f"no text within judge.calls.max_tokens={self._calls.max_tokens}")
        raise Unavailable("an empty reply")

    async def probe(self) -> str | None:
        """None when the server completes a small request, else what is wrong. What the reply says does not matter."""
        prompt = JudgePrompt("answer", "probe", "Reply with OK.", "Are you there?", None)
        try:
            await self._completion(prompt, structured=False)
        except (Unavailable, Refused) as error:
            return str(error)
        return None

    async def close(self) -> None:
        for pool in self._pools:
            await pool.client.close()
        self._pools = []

    async def _completion(self, prompt: JudgePrompt, *, structured: bool) -> tuple[str | None, str | None]:
        """The text and why it ended."""
        import openai

        options: dict[str, Any] = dict(self.sampling)
        if structured and prompt.schema is not None:
            options["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": prompt.purpose, "schema": prompt.schema, "strict": True},
            }
        messages: list[Any] = [
            {"role": "system", "content": prompt.system},
            {"role": "user", "content": prompt.user},
        ]
        request = {"model": self._server.model, "messages": messages, **options}
        pool = self._pool()
        pool.under_way += 1
        try:
            # The library's own timeout is one of each read: a server that drips bytes would pass it.
            body = await asyncio.wait_for(pool.post(request), self._calls.deadline_s)
        except (asyncio.TimeoutError, openai.APITimeoutError):
            raise Unavailable(f"no reply within {self._calls.deadline_s:g} s") from None
        except openai.APIConnectionError as error:
            raise Unavailable(f"no connection: {_first_line(error.__cause__ or error)}") from None
        except openai.APIStatusError as error:
            reason = f"status {error.status_code}: {_message(error)}"
            if error.status_code in _REFUSALS:
                raise Refused(reason) from None
            raise Unavailable(reason, retry_after_s=retry_after_s(error.response.headers)) from None
        except ValueError:
            raise Unavailable("the reply is no JSON") from None
        finally:
            pool.under_way -= 1
        return _content(body)

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

    async def post(self, request: Mapping[str, Any]) -> object:
        """The JSON of the answer."""
        # `chat.completions.create` spends as long on checking its arguments as all the rest takes.
        return await self.client.post("/chat/completions", body=request, cast_to=object)


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


def _content(body: Any) -> tuple[str | None, str | None]:
    """Text and finish reason of a chat completion.

    Raises:
        Unavailable: it is none.
    """
    try:
        choice = body["choices"][0]
        text, reason = choice["message"]["content"], choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise Unavailable("the reply is no chat completion") from None
    if not isinstance(text, str | None):
        raise Unavailable("the reply is no chat completion")
    return text, reason


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


def _message(error: APIStatusError) -> str:
    """What the server says about its refusal."""
    body = error.body
    if isinstance(body, Mapping) and isinstance(body.get("message"), str):
        return _first_line(body["message"])
    return _first_line(error.message)


def _first_line(value: object) -> str:
    text = " ".join(str(value).split())
    return (text or type(value).__name__)[:_MAX_MESSAGE_CHARS]
