"""The command that changes the sizes of a run's pools."""

from __future__ import annotations

from pathlib import Path

import pytest

from videor2_rl.config.errors import ConfigError
from videor2_rl.run.place import PoolState
from videor2_rl.scale import leaving_of, lines_of, main, sizes_of
from workers.control import Wish, check_wish

STATES = {
    "rollout": PoolState(2, {0: "serving", 1: "starting"}, "rollout.max_workers", 3),
    "video": PoolState(1, {0: "serving"}, "video.num_workers", None),
}


def test_sizes_and_who_leaves_are_read_from_the_command_line() -> None:
    sizes = sizes_of(["rollout=3", "video=4"])
    assert sizes == {"rollout": 3, "video": 4}
    assert leaving_of(["rollout/0", "video/1", "rollout/2"], sizes) == {"rollout": (0, 2), "video": (1,)}
    assert lines_of(STATES)[0] == "rollout: 2 wanted; 0 serving, 1 starting"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rollout"], "rollout: expected POOL=N"),
        (["rollout=-1"], "rollout=-1: expected POOL=N"),
        (["rollout=1", "rollout=2"], "rollout=2: rollout has a size already"),
        (["rollout=1", "--leave", "rollout"], "--leave rollout: expected POOL/NUMBER"),
        (["rollout=1", "--leave", "video/0"], "--leave video/0: say how large the pool is to be too"),
        (["rollout=1"], "no run trains here"),
    ],
)
def test_what_cannot_be_understood_is_one_sentence_and_exit_status_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path), *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "wish", "message"),
    [
        ("judge", Wish(1), "judge: the run has no such pool; it has rollout, video"),
        ("rollout", Wish(0), "rollout=0: a pool needs at least one worker"),
        ("rollout", Wish(4), r"rollout=4: the run allows at most 3 \(rollout.max_workers\)"),
        ("rollout", Wish(1, (2,)), "there is no rollout worker 2; there are 0, 1"),
    ],
)
def test_a_size_that_a_pool_cannot_have_is_refused(name: str, wish: Wish, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_wish(name, wish, STATES)
    check_wish("rollout", Wish(3, (0,)), STATES)
    check_wish("video", Wish(100), STATES)
