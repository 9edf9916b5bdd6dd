"""An address of this machine, and who may use it."""

from __future__ import annotations

import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

from videor2_rl.config.command_line import Parser
from videor2_rl.config.errors import ConfigError


@dataclass(frozen=True)
class Place:
    """Where pages are served."""

    listener: socket.socket
    """Listens already: a browser that is told the address finds somebody there."""
    address: str
    """That a user opens; holds the token."""
    token: str | None


def add_place_options(parser: Parser, *, port: int) -> None:
    """--media, --port, --host and --token."""
    parser.add_argument("--media", metavar="DIR", type=Path, action="append", default=[], help="where clips lie too")
    parser.add_argument("--port", type=int, default=port, help="(default: %(default)s); 0: any that is free")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve at (default: %(default)s, this machine)")
    parser.add_argument("--token", help="asked of everybody; another --host than this machine makes one up")


def opened_place(*, host: str, port: int, token: str | None) -> Place:
    """Bind the address.

    Args:
        port: 0: any that is free.
        token: None: another host than this machine makes one up.

    Raises:
        ConfigError: the port is taken, or the address is none of this machine's.
    """
    from videor2_rl.view.security import is_loopback

    if token is None and not is_loopback(host):
        token = secrets.token_urlsafe(16)
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(64)
    except OSError as error:
        raise ConfigError(f"--port {port} at {host} cannot be used ({error.strerror}); give another") from None
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listener.getsockname()[1]}/" + (f"?token={token}" if token else "")
    return Place(listener, address, token)
