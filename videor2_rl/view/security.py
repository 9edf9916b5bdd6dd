"""Who may ask, and what a page may load: the viewer shows texts that models wrote, on machines that others use."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Awaitable, Callable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "videor2_view"
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_READS = ("GET", "HEAD")
_LOOPBACK_NAMES = ("localhost", "localhost.localdomain")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host.lower() in _LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Guard:
    """Adds the headers, and answers who may not ask.

    Without a token only requests to a loopback name are answered: a page elsewhere whose name is pointed at this
    machine gets nothing. With a token it has to come once as `?token=`, and stays as a cookie. What changes something
    (anything but GET and HEAD) is taken from our own pages alone; programs, which name no origin, may send it too.
    """

    def __init__(self, app: ASGIApp, *, token: str | None) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        headers = Headers(scope=scope)
        if self._token is None:
            if not is_loopback(_host_of(headers.get("host", ""))):
                refused = "Only requests to localhost are answered; start with --host and a token for others.\n"
                await PlainTextResponse(refused, 403)(scope, receive, guarded)
                return
        elif (answer := self._check(scope, headers)) is not None:
            await answer(scope, receive, guarded)
            return
        if scope["method"] not in _READS and not _is_ours(headers):
            await PlainTextResponse("Only this page itself may send that.\n", 403)(scope, receive, guarded)
            return
        await self._app(scope, receive, guarded)

    def _check(self, scope: Scope, headers: Headers) -> Callable[[Scope, Receive, Send], Awaitable[None]] | None:
        assert self._token is not None
        query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = query.pop("token", [""])[0]
        if hmac.compare_digest(given.encode(), self._token.encode()):
            # The token goes out of the address, so that no link that is passed on holds it.
            rest = urlencode(query, doseq=True)
            response = RedirectResponse(scope["path"] + (f"?{rest}" if rest else ""), 303)
            response.set_cookie(COOKIE, self._token, httponly=True, samesite="strict")
            return response
        if hmac.compare_digest(_cookie(headers).encode(), self._token.encode()):
            return None
        return PlainTextResponse("A token is needed: open the address that the viewer printed.\n", 401)


def _host_of(host: str) -> str:
    """A Host header without its port."""
    if host.startswith("["):
        return host.partition("]")[0].lstrip("[")
    return host.rpartition(":")[0] if ":" in host else host


def _is_ours(headers: Headers) -> bool:
    """Whether a page of this server sent it, or no page at all: every browser names the origin of what it posts."""
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == headers.get("host")


def _cookie(headers: Headers) -> str:
    cookies: SimpleCookie = SimpleCookie()
    try:
        cookies.load(headers.get("cookie", ""))
    except CookieError:
        return ""
    return cookies[COOKIE].value if COOKIE in cookies else ""
