"""Signals and the clock: what is cut short, what is finished first, and what is said."""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from videor2_rl.run.checkpoint import Checkpoints
from videor2_rl.run.files import FileSum
from videor2_rl.run.stopping import Stopped, Stopping, going_on


def sent(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_what_is_under_way_at_once(number: signal.Signals, exit_code: int) -> None:
    reached = False
    with pytest.raises(Stopped) as stop, Stopping(limit_s=60, max_hours=None):
        sent(number)
        reached = True
    assert (stop.value.reason, stop.value.exit_code, stop.value.may_save) == (number.name, exit_code, True)
    assert not reached


def test_what_is_undivided_is_finished_first() -> None:
    done = []
    with pytest.raises(Stopped), Stopping(limit_s=60, max_hours=None) as stopping:
        with stopping.undivided():
            sent(signal.SIGTERM)
            with stopping.undivided():
                done.append("inner")
            done.append("outer")
        done.append("after")
    assert done == ["inner", "outer"]


def test_an_error_in_the_undivided_part_stays_the_one_that_is_raised() -> None:
    with pytest.raises(ZeroDivisionError), Stopping(limit_s=60, max_hours=None) as stopping, stopping.undivided():
        sent(signal.SIGTERM)
        raise ZeroDivisionError


def test_a_second_signal_gives_up_even_what_is_undivided() -> None:
    done = []
    with pytest.raises(Stopped) as stop, Stopping(limit_s=60, max_hours=None) as stopping, stopping.undivided():
        sent(signal.SIGTERM)
        done.append("once")
        sent(signal.SIGINT)
        done.append("twice")
    assert done == ["once"]
    assert (stop.value.may_save, stop.value.exit_code) == (False, 130)


@pytest.mark.parametrize("signals", [1, 2])
def test_a_signal_that_comes_during_a_destructor_is_not_lost(signals: int, capsys: pytest.CaptureFixture[str]) -> None:
    class Signalled:
        def __del__(self) -> None:
            sent(signal.SIGTERM)
            # Python looks for signals between two instructions.
            time.sleep(0)

    reached = False
    with pytest.raises(Stopped) as stop, Stopping(limit_s=60, max_hours=None) as stopping, ExitStack() as stack:
        if signals == 2:
            stack.enter_context(stopping.undivided())
            sent(signal.SIGTERM)
        Signalled()
        for _ in range(1000):
            time.sleep(0.01)
        reached = True
    assert not reached
    assert (stop.value.exit_code, stop.value.may_save) == (143, signals == 1)
    assert capsys.readouterr().err == ""


def test_after_the_limit_everything_is_given_up() -> None:
    with pytest.raises(Stopped) as stop, Stopping(limit_s=0.05, max_hours=None) as stopping, stopping.undivided():
        sent(signal.SIGTERM)
        for _ in range(1000):
            time.sleep(0.01)
    assert not stop.value.may_save and stop.value.exit_code == 143


def test_the_handlers_before_it_are_put_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Stopping(limit_s=60, max_hours=None):
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_no_step_is_begun_that_would_end_after_max_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stopping = Stopping(limit_s=60, max_hours=0.5)
    now[0] += 1700
    stopping.before_step(100.0)
    with pytest.raises(Stopped, match=r"checkpoint\.max_hours=0\.5") as stop:
        stopping.before_step(100.5)
    assert stop.value.exit_code == 0
    now[0] += 1e9
    Stopping(limit_s=60, max_hours=None).before_step(1e9)


class Writer:
    def save(self, path: Path) -> None:
        pass

    def finish_save(self) -> dict[str, FileSum]:
        return {}


def test_how_to_go_on_is_read_from_the_folder(tmp_path: Path) -> None:
    same = f"the same command with output_dir={tmp_path}"
    assert going_on(tmp_path) == f"{tmp_path} holds no checkpoint: {same} begins anew"
    checkpoints = Checkpoints(tmp_path, keep=2, origin={"seed": 1})
    checkpoints.begin(7, {}, Writer())
    assert "begins anew" in going_on(tmp_path)
    checkpoints.complete()
    assert going_on(tmp_path) == f"{same} goes on after step 7"
