"""A client over a real server with scripted faults."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from asked import CALLS, Asked, Start
from fault_server import Act, FaultServer


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("videor2_rl.judge.client._FIRST_WAIT_S", 0.02)


@pytest.fixture
def start() -> Iterator[Start]:
    running: list[Asked] = []

    def begin(script: Callable[[int, dict[str, Any]], Act], **changes: Any) -> Asked:
        running.append(Asked(FaultServer(script).__enter__(), replace(CALLS, **changes)))
        return running[-1]

    yield begin
    for asked in running:
        asked.client.close()
        asked.server.__exit__()
