"""Video workers: one sample becomes a prompt or is skipped with its reason, and the pool keeps order; no Ray here."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from transformers import AutoTokenizer

from videor2_rl.app import compose_run
from videor2_rl.config.runs import GrpoRun
from videor2_rl.config.sections import DataConfig, ModelConfig, VideoConfig
from videor2_rl.dataset import load_samples
from videor2_rl.types import Prompt, PromptHandle, SkippedSample, VideoSample
from workers import video as video_module
from workers.fetch import reset_received_bytes
from workers.video import Prepared, VideoPool, VideoWorker


@pytest.fixture
def rows(demo_dir: Path) -> list[VideoSample]:
    data = DataConfig(
        train_file=None,
        validation_file=None,
        media_dir=str(demo_dir),
        subtitles_dir=None,
        shuffle=False,
        max_skipped_frac=0.0,
        make_demo=None,
    )
    return load_samples(str(demo_dir / "sft.json"), data=data)


@pytest.fixture
def objects(monkeypatch: pytest.MonkeyPatch) -> list[Prompt]:
    """What was put into the object store; a reference is the place in this list."""
    stored: list[Prompt] = []

    def put(prompt: Prompt) -> int:
        stored.append(prompt)
        return len(stored) - 1

    monkeypatch.setattr(ray, "put", put)
    return stored


def a_worker(model: ModelConfig, video: VideoConfig, **changes: Any) -> VideoWorker:
    return VideoWorker(model, video, **{"max_prompt_tokens": 4096, "encode_solutions": False, **changes})


def test_a_sample_becomes_a_prompt_in_the_object_store_and_a_handle(
    rows: list[VideoSample], objects: list[Prompt], model_config: ModelConfig, video_config: VideoConfig
) -> None:
    worker = a_worker(model_config, video_config)
    prepared = [worker.prepare(sample) for sample in (rows[0], rows[-1], rows[0])]
    handles = [one.outcome for one in prepared if isinstance(one.outcome, PromptHandle)]
    assert [handle.sample_id for handle in handles] == [rows[0].sample_id, rows[-1].sample_id, rows[0].sample_id]
    for handle in handles:
        prompt = objects[handle.ref]
        assert (handle.sample_id, handle.clip_key) == (prompt.sample_id, prompt.clip_key)
        assert handle.num_tokens == len(prompt.token_ids)
        assert handle.visual is None and handle.solution_ids is None
    assert handles[0].clip_key == handles[2].clip_key != handles[1].clip_key
    # The third is the first again, from the cache.
    assert [one.decodes for one in prepared] == [1, 1, 1]


def test_the_solution_is_encoded_only_when_asked_and_ends_with_the_end_token(
    rows: list[VideoSample], objects: list[Prompt], model_config: ModelConfig, video_config: VideoConfig
) -> None:
    worker = a_worker(model_config, video_config, encode_solutions=True)
    outcome = worker.prepare(rows[0]).outcome
    assert isinstance(outcome, PromptHandle) and outcome.solution_ids is not None
    tokenizer = AutoTokenizer.from_pretrained(model_config.path)
    assert outcome.solution_ids.tolist() == [*tokenizer.encode(rows[0].solution), tokenizer.eos_token_id]


def test_a_clip_that_cannot_be_used_is_skipped_with_its_reason(
    rows: list[VideoSample],
    objects: list[Prompt],
    model_config: ModelConfig,
    video_config: VideoConfig,
    tmp_path: Path,
) -> None:
    gone = replace(rows[0], video=str(tmp_path / "gone.mp4"))
    prepared = a_worker(model_config, video_config).prepare(gone)
    assert prepared == Prepared(
        SkippedSample(gone.sample_id, gone.video, "missing", f"{gone.video}: no such file"), decodes=0
    )
    assert objects == []


def test_a_prompt_may_take_all_tokens_there_are_and_not_one_more(
    rows: list[VideoSample], objects: list[Prompt], model_config: ModelConfig, video_config: VideoConfig
) -> None:
    outcome = a_worker(model_config, video_config).prepare(rows[0]).outcome
    assert isinstance(outcome, PromptHandle)
    length = outcome.num_tokens
    assert isinstance(
        a_worker(model_config, video_config, max_prompt_tokens=length).prepare(rows[0]).outcome, PromptHandle
    )
    skipped = a_worker(model_config, video_config, max_prompt_tokens=length - 1).prepare(rows[0]).outcome
    assert isinstance(skipped, SkippedSample) and skipped.reason == "too_long"


# --- the pool ---------------------------------------------------------------------------------------------------------


class LocalPool:
    """`ActorPool` in this process: names that begin with `bad` are skipped, `twice` was decoded twice."""

    def __init__(self, name: str, *, size: int, **options: Any) -> None:
        self.size = size
        self.create = options["create"]
        self.asked: list[str] = []

    def submit(self, method: str, sample: VideoSample) -> Future[Prepared]:
        assert method == "prepare"
        self.asked.append(sample.sample_id)
        future: Future[Prepared] = Future()
        try:
            future.set_result(self._prepare(sample))
        except ZeroDivisionError as error:
            future.set_exception(error)
        return future

    def shutdown(self) -> None:
        self.asked.append("shutdown")

    def _prepare(self, sample: VideoSample) -> Prepared:
        if sample.sample_id.startswith("broken"):
            raise ZeroDivisionError(sample.sample_id)
        if sample.sample_id.startswith("bad"):
            return Prepared(SkippedSample(sample.sample_id, sample.video, "empty", ""), decodes=0)
        key = sample.video
        return Prepared(PromptHandle(sample.sample_id, key, 4, None), decodes=2 if key == "twice" else 1)


class Options:
    """An actor class whose actors are the options that they were made with."""

    def __init__(self, actor: type) -> None:
        assert actor is VideoWorker

    def options(self, **_: Any) -> Options:
        return self

    def remote(self, *_: Any, **options: Any) -> dict[str, Any]:
        return options


@pytest.mark.parametrize(("options", "is_encoded"), [({}, False), ({"encode_solutions": True}, True)])
def test_solutions_are_encoded_where_the_pool_is_told_to(
    options: dict[str, bool], is_encoded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_module, "ActorPool", LocalPool)
    monkeypatch.setattr(video_module, "actor_class", Options)
    run = compose_run("grpo", GrpoRun, ["model.path=m", "data.train_file=t", "data.media_dir=d"])
    pool = VideoPool(run.model, run.video, max_prompt_tokens=64, **options)
    assert isinstance(pool._pool, LocalPool)
    assert pool._pool.create(0) == {"max_prompt_tokens": 64, "encode_solutions": is_encoded}
    pool.shutdown()


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[VideoPool]:
    monkeypatch.setattr(video_module, "ActorPool", LocalPool)
    run = compose_run("grpo", GrpoRun, ["model.path=m", "data.train_file=t", "data.media_dir=d"])
    pool = VideoPool(run.model, run.video, max_prompt_tokens=64)
    yield pool
    pool.shutdown()


def named(*names: str, video: str = "") -> list[VideoSample]:
    return [VideoSample(name, video or name, "q", "a") for name in names]


def asked(pool: VideoPool) -> list[str]:
    assert isinstance(pool._pool, LocalPool)
    return pool._pool.asked


def test_outcomes_come_in_the_order_of_the_samples_skipped_ones_among_them(pool: VideoPool) -> None:
    outcomes = pool.prepare(named("c", "bad", "a"))
    assert [outcome.sample_id for outcome in outcomes] == ["c", "bad", "a"]
    assert [isinstance(outcome, PromptHandle) for outcome in outcomes] == [True, False, True]


def test_what_was_prefetched_is_not_prepared_again(pool: VideoPool) -> None:
    pool.prefetch(named("a", "b"))
    outcomes = pool.prepare(named("a", "b"))
    assert [outcome.sample_id for outcome in outcomes] == ["a", "b"]
    assert asked(pool) == ["a", "b"]
    # It is taken once.
    pool.prepare(named("a", "b"))
    assert asked(pool) == ["a", "b", "a", "b"]


@pytest.mark.parametrize(
    ("others", "anew"), [(("b", "a"), []), (("a",), []), (("a", "b", "c"), ["c"]), (("a", "a"), ["a"])]
)
def test_only_what_was_not_prefetched_is_prepared_anew(
    pool: VideoPool, others: tuple[str, ...], anew: list[str]
) -> None:
    pool.prefetch(named("a", "b"))
    outcomes = pool.prepare(named(*others))
    assert [outcome.sample_id for outcome in outcomes] == list(others)
    assert asked(pool) == ["a", "b", *anew]


def test_what_was_prefetched_and_not_asked_for_makes_room_for_the_next(pool: VideoPool) -> None:
    pool.prefetch(named("a", "b"))
    pool.prefetch(named("c"))
    pool.prepare(named("a", "c"))
    assert asked(pool) == ["a", "b", "c", "a"]


def test_an_error_of_a_worker_reaches_whoever_asks_for_the_samples(pool: VideoPool) -> None:
    pool.prefetch(named("broken"))
    with pytest.raises(ZeroDivisionError, match="broken"):
        pool.prepare(named("broken"))
    assert len(pool.prepare(named("a"))) == 1


def test_decodes_are_counted_per_clip_and_not_per_sample(pool: VideoPool) -> None:
    assert pool.decodes_per_clip() == 0.0
    pool.prepare([*named("a", "b", "bad"), *named("c", "d", video="twice")])
    # Clips a and b once, the clip of c and d twice.
    assert pool.decodes_per_clip() == pytest.approx(4 / 3)
    pool.prepare(named("e", video="twice"))
    assert pool.decodes_per_clip() == pytest.approx(4 / 3)


@pytest.mark.ray
@pytest.mark.slow
def test_a_cache_that_cannot_be_written_is_told_once_and_every_decode_is_counted(
    demo_dir: Path,
    tmp_path: Path,
    model_config: ModelConfig,
    video_config: VideoConfig,
    ray_cluster: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").touch()
    video = replace(video_config, cache_dir=str(tmp_path / "file" / "cache"), num_workers=2)
    clips = sorted((demo_dir / "clips").glob("*/*.mp4"))[:3]
    samples = [VideoSample(clip.stem + clip.parent.name, str(clip), "What?", "A") for clip in clips]
    pool = VideoPool(model_config, video, max_prompt_tokens=512)
    with caplog.at_level(logging.WARNING, logger="workers.video"):
        for _ in range(2):
            assert all(isinstance(prompt, PromptHandle) for prompt in pool.prepare(samples))
    pool.shutdown()
    [said] = [record.getMessage() for record in caplog.records if record.name == "workers.video"]
    assert said.startswith(
        f"video.cache_dir: cannot write to {video.cache_dir} (Not a directory); the run goes on without"
    )
    assert pool.decodes_per_clip() == 2.0


@pytest.mark.ray
@pytest.mark.slow
def test_the_driver_receives_as_much_of_a_prompt_whatever_the_number_of_frames(
    rows: list[VideoSample], model_config: ModelConfig, video_config: VideoConfig, ray_cluster: None
) -> None:
    """No pixel, token id or time of it."""
    received, lengths = {}, {}
    for frames in (8, 16):
        video = replace(video_config, min_frames=frames, max_frames=frames, fps=100.0, num_workers=1)
        pool = VideoPool(model_config, video, max_prompt_tokens=4096)
        reset_received_bytes()
        handles = pool.prepare(rows[:2])
        received[frames] = reset_received_bytes()
        pool.shutdown()
        lengths[frames] = [handle.num_tokens for handle in handles if isinstance(handle, PromptHandle)]
    assert min(lengths[16]) > max(lengths[8]) > 0 and len(lengths[16]) == 2
    # A few bytes of slack: numbers are pickled in as many as they need. Sixteen times alone would be 8 x 16.
    assert received[8] > 0
    assert abs(received[16] - received[8]) < 64


@pytest.mark.ray
@pytest.mark.slow
def test_a_clip_that_ends_every_process_which_reads_it_is_skipped_and_the_others_are_prepared(
    demo_dir: Path,
    tmp_path: Path,
    model_config: ModelConfig,
    video_config: VideoConfig,
    ray_cluster: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Fragile(VideoWorker):
        def prepare(self, sample: VideoSample) -> Prepared:
            """As a decoder's segmentation fault, or the kernel where memory runs out."""
            if sample.sample_id == "fatal":
                os.kill(os.getpid(), signal.SIGKILL)
            return super().prepare(sample)

    monkeypatch.setattr(video_module, "VideoWorker", Fragile)
    clip = str(min((demo_dir / "clips").glob("*/*.mp4")))
    samples = [VideoSample(name, clip, "What?", "A") for name in ("a", "fatal", "b", "c")]
    pool = VideoPool(model_config, replace(video_config, cache_dir=str(tmp_path), num_workers=1), max_prompt_tokens=512)
    pool.prefetch(samples)
    for _ in range(2):
        outcomes = pool.prepare(samples)
        assert [isinstance(one, PromptHandle) for one in outcomes] == [True, False, True, True]
        skipped = outcomes[1]
        assert isinstance(skipped, SkippedSample) and skipped.reason == "fatal"
        assert skipped.detail.startswith("video workers keep failing: 3 were lost over one call")
        # The second time it is known.
        assert pool._pool.replacements == 3
    pool.shutdown()
