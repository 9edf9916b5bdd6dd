"""A run that is told other sizes while it goes on, by another process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from videor2_rl.run.place import PLACE_FILE, read_pools
from workers.control import Scaled, controlled


class Pool:
    """As far as its size goes."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.asked: list[tuple[int, tuple[int, ...]]] = []

    def states(self) -> Mapping[int, str]:
        return dict.fromkeys(range(self.size), "serving")

    def resize(self, size: int, *, leaving: Sequence[int] = ()) -> None:
        self.asked.append((size, tuple(leaving)))
        self.size = size


def scale(*arguments: str) -> subprocess.CompletedProcess[str]:
    """As from another shell, which knows nothing of the run but its folder."""
    command = [sys.executable, "-m", "videor2_rl.scale", *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def eventually(is_met: Callable[[], bool]) -> None:
    due = time.monotonic() + 300
    while not is_met():
        assert time.monotonic() < due
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.ray
def test_pools_take_the_sizes_that_another_process_asks_for(ray_cluster: None, tmp_path: Path) -> None:
    pools = {"rollout": Pool(1), "video": Pool(2)}
    scaled = {"rollout": Scaled(pools["rollout"], "rollout.max_workers", 3), "video": Scaled(pools["video"], "v")}
    told: list[Mapping[str, int]] = []
    with controlled(tmp_path, scaled, on_resize=lambda sizes: told.append(dict(sizes))):
        # The first that it says of itself may take a moment.
        eventually(lambda: scale(str(tmp_path)).returncode == 0)
        done = scale(str(tmp_path), "rollout=3", "--leave", "rollout/0")
        assert read_pools(tmp_path)["rollout"].most == 3
        assert (done.returncode, done.stdout) == (0, "rollout: from 1 to 3\n"), done.stderr
        eventually(lambda: bool(told))
        assert (pools["rollout"].asked, pools["video"].asked) == ([(3, (0,))], [])
        assert told == [{"rollout": 3, "video": 2}]
        eventually(lambda: read_pools(tmp_path)["rollout"].workers == dict.fromkeys(range(3), "serving"))
        refused = scale(str(tmp_path), "rollout=4", "video=1")
        assert refused.returncode == 2
        assert refused.stderr.splitlines()[-1] == "error: rollout=4: the run allows at most 3 (rollout.max_workers)"
        listed = scale(str(tmp_path))
        assert listed.stdout.splitlines()[0] == "rollout: 3 wanted; 0 serving, 1 serving, 2 serving"
    assert not (tmp_path / PLACE_FILE).exists() and read_pools(tmp_path) == {} and pools["video"].asked == []
