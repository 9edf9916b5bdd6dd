"""Prompts on their way: what goes together, what overlaps, what waits, and what ends the run."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from loop_fakes import Fakes, configure, run_loop, samples

from videor2_rl.run.tracking import read_metrics
from videor2_rl.training.batch import Batch
from videor2_rl.training.ledger import Ledger, check_ledger
from videor2_rl.training.protocols import ScoredGroups
from videor2_rl.training.stream import Stream
from videor2_rl.training.window import Window
from videor2_rl.types import Group, LostPrompt, PromptHandle, SkippedSample, VideoSample

ONE_STEP_OFF = ["algorithm.max_staleness=1", "rollout.top_k=0", "data.shuffle=false"]
MIB = 1 << 20


@dataclass
class Held(Fakes):
    """Groups are sampled when the test says so."""

    waiting: dict[int, Callable[[], None]] = field(default_factory=dict)
    num_bytes: int = 0

    def begin_prepare(self, samples: Sequence[VideoSample]) -> list[Future[PromptHandle | SkippedSample]]:
        found = super().begin_prepare(samples)
        for future in found:
            prompt = future.result()
            if isinstance(prompt, PromptHandle):
                future._result = replace(prompt, num_bytes=self.num_bytes)
        return found

    def begin_generate(self, prompts: Sequence[PromptHandle], **request: Any) -> Future[list[Group | LostPrompt]]:
        groups = self.generate(prompts, **request)
        future: Future[list[Group | LostPrompt]] = Future()
        for number in request["group_ids"]:
            self.waiting[number] = lambda: future.set_result([*groups])
        return future

    def let_go(self, *numbers: int) -> None:
        for number in numbers:
            eventually(lambda number=number: number in self.waiting)  # type: ignore[misc]
            self.waiting.pop(number)()


def eventually(is_met: Callable[[], bool]) -> None:
    due = time.monotonic() + 30
    while not is_met():
        assert time.monotonic() < due
        time.sleep(0.001)


@contextmanager
def stream_of(fakes: Fakes, tmp_path: Path, *overrides: str, num_steps: int = 4) -> Iterator[tuple[Stream, Ledger]]:
    run = configure(tmp_path, *overrides, f"algorithm.num_steps={num_steps}")
    algorithm, ledger, rows = run.algorithm, Ledger(), samples(16)
    window = Window(
        prompts_per_step=algorithm.prompts_per_step,
        max_staleness=algorithm.max_staleness,
        lookahead=algorithm.lookahead,
        end=num_steps * algorithm.prompts_per_step,
    )
    skipped: list[SkippedSample] = []
    with Stream(
        run, fakes.workers(), lambda number: rows[number], window=window, ledger=ledger, skip=skipped.append
    ) as stream:
        yield stream, ledger


def take(stream: Stream) -> Batch:
    return stream.take(tend=lambda: None)


def generated(fakes: Fakes) -> list[str]:
    return [call.split()[-1] for call in list(fakes.calls) if call.startswith("generate")]


def test_a_synchronous_step_goes_together_and_nothing_sets_out_before_it_is_released(tmp_path: Path) -> None:
    fakes = Held()
    with stream_of(fakes, tmp_path, "data.shuffle=false") as (stream, _):
        stream.admit()
        fakes.let_go(0)
        batch = take(stream)
        assert (batch.numbers, [group.group_id for group in batch.groups]) == ([0, 1], [0, 1])
        stream.admit()
        time.sleep(0.05)
        assert generated(fakes) == ["s0,s1"]
        stream.release(batch)
        stream.admit()
        fakes.let_go(2)
        assert take(stream).numbers == [2, 3]


def test_one_step_off_groups_go_by_themselves_and_a_batch_keeps_the_order(tmp_path: Path) -> None:
    fakes = Held()
    with stream_of(fakes, tmp_path, *ONE_STEP_OFF) as (stream, ledger):
        stream.admit()
        # The later ones first: their step waits for the oldest all the same.
        fakes.let_go(3, 1, 2)
        eventually(lambda: fakes.calls.count("score") == 3)
        taken: list[Batch] = []
        main = threading.Thread(target=lambda: taken.append(take(stream)))
        main.start()
        time.sleep(0.05)
        assert not taken
        fakes.let_go(0)
        main.join(timeout=30)
        assert taken[0].numbers == [0, 1] and len(taken[0].refs) == 2
        assert [sample.sample_id for sample in taken[0].samples] == ["s0", "s1"]
        assert [ledger.state_of(number) for number in range(5)] == [
            *("training", "training", "scored", "scored", "waiting")
        ]
        assert sorted(generated(fakes)) == ["s0", "s1", "s2", "s3"]
        # The second step is there already; a third sets out only when the first has been released.
        assert take(stream).numbers == [2, 3]
        stream.release(taken[0])
        stream.admit()
        eventually(lambda: len(generated(fakes)) == 6)


def test_what_is_ahead_waits_while_the_others_fill_the_store_and_the_next_step_does_not(tmp_path: Path) -> None:
    fakes = Held(num_bytes=MIB)
    small = ["algorithm.max_staleness=3", "rollout.top_k=0", "data.shuffle=false", "rollout.max_prepared_mib=1"]
    with stream_of(fakes, tmp_path, *small) as (stream, _):
        stream.admit()
        fakes.let_go(0, 1)
        first = take(stream)
        time.sleep(0.05)
        # Two MiB are held, and one is allowed: of eight prompts those of the next step alone have set out.
        assert generated(fakes) == ["s0", "s1"]
        stream.release(first)
        eventually(lambda: len(generated(fakes)) == 4)
        time.sleep(0.05)
        assert sorted(generated(fakes)) == ["s0", "s1", "s2", "s3"]
        fakes.let_go(2, 3)
        assert take(stream).numbers == [2, 3]


def test_the_whole_run_one_step_off_trains_every_prompt_on_the_policy_before(tmp_path: Path) -> None:
    fakes = Fakes(skip=frozenset({"s3"}))
    run_loop(configure(tmp_path, *ONE_STEP_OFF, "data.max_skipped_frac=0.5", "checkpoint.every_steps=0"), fakes)
    rows = read_metrics(tmp_path)
    assert [row["actor/policy_version"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[0]["rollout/staleness_max"] == 0 and max(row["rollout/staleness_max"] for row in rows) == 1
    assert all("timing_s/wait" in row and "timing_s/generate" not in row for row in rows)
    assert all("timing_s/group_generate" in row for row in rows)


@pytest.mark.parametrize("overrides", [(), ONE_STEP_OFF], ids=["synchronous", "one step off"])
def test_a_prompt_that_no_engine_survives_is_skipped_recorded_and_not_tried_again(
    tmp_path: Path, overrides: Sequence[str]
) -> None:
    fakes = Fakes(fatal=frozenset({"s1", "s6", "s7"}))
    fixed = ["data.shuffle=false", "data.max_skipped_frac=0.5", "algorithm.num_steps=8", "checkpoint.every_steps=0"]
    run_loop(configure(tmp_path, *overrides, *fixed), fakes)
    assert [row["data/skipped"] for row in read_metrics(tmp_path)][-1] == 3
    recorded = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert [(row["sample_id"], row["reason"], row["detail"]) for row in recorded] == [
        (name, "fatal", "4 were lost") for name in ("s1", "s6", "s7")
    ]
    # Samples 0 to 7 twice; in the second epoch the three are left out before an engine sees them.
    counts = Counter(
        name for call in fakes.calls if call.startswith("generate") for name in call.split()[-1].split(",")
    )
    assert counts == {f"s{n}": 1 if f"s{n}" in fakes.fatal else 2 for n in range(8)}
    said = check_ledger(tmp_path, num_prompts=16)
    assert said.startswith("ledger: 16 prompts, 10 trained, 6 skipped (fatal); 0 lost, 0 twice")


def test_in_the_synchronous_loop_the_wait_is_told_by_its_parts(tmp_path: Path) -> None:
    run_loop(configure(tmp_path, "algorithm.num_steps=1"), Fakes())
    [row] = read_metrics(tmp_path)
    assert {"prepare", "encode", "generate", "reward"} <= {name.removeprefix("timing_s/") for name in row}
    assert "timing_s/wait" not in row


@pytest.mark.parametrize("part", ["prepare", "generate", "score"])
def test_what_ends_the_way_of_a_group_ends_the_wait_of_the_loop(tmp_path: Path, part: str) -> None:
    class Failing(Held):
        def fail(self) -> Any:
            future: Future[Any] = Future()
            future.set_exception(ZeroDivisionError(part))
            return future

        def begin_prepare(self, samples: Sequence[VideoSample]) -> list[Future[PromptHandle | SkippedSample]]:
            return [self.fail()] if part == "prepare" else super().begin_prepare(samples)

        def begin_generate(self, prompts: Sequence[PromptHandle], **request: Any) -> Future[list[Group | LostPrompt]]:
            return self.fail() if part == "generate" else Fakes.begin_generate(self, prompts, **request)

        def begin_score(
            self, groups: Sequence[Group], samples: Sequence[VideoSample], **known: Any
        ) -> Future[ScoredGroups]:
            return self.fail() if part == "score" else super().begin_score(groups, samples, **known)

    with stream_of(Failing(), tmp_path, *ONE_STEP_OFF) as (stream, _):
        stream.admit()
        with pytest.raises(ZeroDivisionError, match=part):
            take(stream)


def test_joiners_are_tended_while_the_loop_waits(tmp_path: Path) -> None:
    fakes = Held()
    with stream_of(fakes, tmp_path, *ONE_STEP_OFF) as (stream, _):
        stream.admit()
        fakes.let_go(1)

        def tend() -> None:
            fakes.calls.append("tended")
            if 0 in fakes.waiting:
                fakes.let_go(0)

        stream.take(tend=tend)
    assert "tended" in fakes.calls
