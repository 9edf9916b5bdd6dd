"""The rollout pool: what the driver holds of the rollout workers.

Pixels go from where the `Prompt` lives to the worker; only ids, log-probs and text come back.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from videor2_rl.background import then
from videor2_rl.config.errors import ConfigError
from videor2_rl.config.sections import RolloutConfig
from videor2_rl.types import Group, LostPrompt, PromptHandle, SamplingSpec
from workers.errors import CallGivenUp
from workers.fetch import LOST, fetch
from workers.pool import ActorPool, PoolOwner, actor_class
from workers.rollout.engine import EngineSpec, rollout_env
from workers.rollout.worker import GenerateRequest, RolloutWorker
from workers.weights.plan import WeightsRefused
from workers.weights.stored import StoredUpdate, store_update
from workers.weights.stream import Collective, PolicyWeights, Stored, TransferFailed, stream

log = logging.getLogger(__name__)

START_DEADLINE_S = 1800.0
"""A large checkpoint from a slow disk takes minutes."""
LEAVE_S = 120.0
"""For a worker that leaves to end its groups; what is left then is sampled by others."""
JOINER_POLL_S = 0.5
ANSWER_S = 1.0
"""Longer than a step of an engine. A worker that says nothing for so long when weights are due gets them when it does,
and the others do not wait until it is known what ails it (`workers.liveness.SILENT_S`)."""
MAX_LOADING = 32
"""Workers that take a stored update at the same time."""
ATTEMPTS_TOGETHER = 2
"""Before each worker gets its weights by itself."""
MAX_CALL_WAVES = 4
"""A call carries at most this many times the sequences that an engine runs at once: that much work is lost with it."""


@dataclass(frozen=True)
class CheckpointFolder:
    """Weights that every worker reads by itself."""

    folder: str
    policy_version: int


class RolloutPool(PoolOwner):
    """The driver's side: ordinary methods. Lost workers are replaced and bring no group in danger.

    Only one thread, that which trains, may bring weights: `update_weights`, `admit_joiners`, `generate`, `wait_ready`.
    In it, too, the pool changes its size, so that nobody leaves in the middle of an update.
    """

    def __init__(self, spec: EngineSpec, *, group_size: int | None = None) -> None:
        """Start the workers; they build their engines in the background until `wait_ready` or the first call.

        Args:
            group_size: of groups that set out by themselves, each whenever an engine has room for it, with updates in
                between (`rollout.on_update`). None: all groups of a call go together and are of the policy of that
                moment.
        """
        self._spec = spec
        self._source: PolicyWeights | StoredUpdate | CheckpointFolder | None = None
        self._collective: Collective | None = None
        self._sync: dict[str, float] = {}
        config = spec.rollout
        self._streams = group_size is not None
        self._finishes = self._streams and config.on_update == "finish"
        self._turns: defaultdict[Any, threading.Lock] = defaultdict(threading.Lock)
        self._loading = ThreadPoolExecutor(max_workers=MAX_LOADING, thread_name_prefix="loading weights")
        self._wanted: tuple[int, tuple[int, ...]] | None = None
        self._pool = ActorPool(
            "rollout",
            size=config.num_workers,
            create=self._create,
            prepare=lambda actor: actor.start.remote(),
            holds_joiners=True,
            call_deadline_s=config.deadline_s,
            start_deadline_s=START_DEADLINE_S,
            leave_s=min(LEAVE_S, config.deadline_s),
            max_in_flight=1 if group_size is None else _max_in_flight(config, group_size),
            min_size=config.min_workers,
            standby=config.standby,
            has_pulse=True,
        )

    @property
    def policy_version(self) -> int:
        return 0 if self._source is None else self._source.policy_version

    @property
    def actors(self) -> tuple[Any, ...]:
        """The workers' handles at this moment."""
        return self._pool.actors

    @property
    def replacements(self) -> int:
        """Workers lost and replaced since the start."""
        return self._pool.replacements

    def resize(self, size: int, *, leaving: Sequence[int] = ()) -> None:
        """As for all pools, but what was asked last is done when the main thread comes to it: at the next update, or
        while the loop waits for groups."""
        self._wanted = (size, tuple(leaving))

    def wait_ready(self) -> None:
        """Block until every engine is up, or `rollout.min_workers` of them."""
        self._pool.wait_ready()
        self.admit_joiners()

    def begin_generate(
        self, prompts: Sequence[PromptHandle], *, group_ids: Sequence[int], sampling: SamplingSpec, seed: int
    ) -> Future[list[Group | LostPrompt]]:
        """One group per prompt, in order, or what ended the engines that sampled it.

        With `rollout.reproducible`, and where groups go together, the same weights, seed and group ids give the same
        tokens on any worker.

        The future raises RuntimeError where workers keep failing. Somebody must `admit_joiners` until it is done.

        Raises:
            ConfigError: a prompt leaves no room for the response.
        """
        config = self._spec.rollout
        for handle in prompts:
            if handle.num_tokens + sampling.max_tokens > config.max_model_tokens:
                raise ConfigError(
                    f"rollout.max_model_tokens: sample {handle.sample_id} has {handle.num_tokens} prompt tokens and "
                    f"may answer with {sampling.max_tokens}; raise {config.max_model_tokens} or use fewer frames"
                )
        parts = [range(place, place + 1) for place in range(len(prompts))]
        if not self._streams:
            max_groups = _max_groups(config, sampling.group_size)
            parts = call_parts(len(prompts), num_workers=self._pool.size, max_groups=max_groups)
        version = None if self._streams else self.policy_version
        places = {number: place for place, number in enumerate(group_ids)}

        def call_of(part: range) -> tuple[Any, ...]:
            handles = prompts[part.start : part.stop]
            embeddings = [handle.visual for handle in handles if handle.visual is not None]
            request = GenerateRequest(tuple(group_ids[part.start : part.stop]), sampling, seed, version)
            return (request, *(handle.ref for handle in handles), *embeddings)

        def one_by_one(call: tuple[Any, ...]) -> list[tuple[Any, ...]]:
            return [call_of(range(places[number], places[number] + 1)) for number in call[0].group_ids]

        def joined(answers: list[list[Group] | CallGivenUp]) -> list[Group | LostPrompt]:
            found: list[Group | LostPrompt] = []
            for answer in answers:
                if isinstance(answer, CallGivenUp):
                    found.append(LostPrompt(prompts[len(found)].sample_id, str(answer)))
                else:
                    found += answer
            pairs = zip(found, group_ids, strict=True)
            assert all(isinstance(one, LostPrompt) or one.group_id == number for one, number in pairs)
            return found

        return then(self._pool.submit_all("generate", [call_of(part) for part in parts], split=one_by_one), joined)

    def generate(
        self, prompts: Sequence[PromptHandle], *, group_ids: Sequence[int], sampling: SamplingSpec, seed: int
    ) -> list[Group]:
        """`begin_generate`, waited for; all groups are of the policy of this moment.

        Raises:
            ConfigError, RuntimeError: as `begin_generate`; also for a prompt that ended its engines.
        """
        future = self.begin_generate(prompts, group_ids=group_ids, sampling=sampling, seed=seed)
        try:
            while not future.done():
                self.admit_joiners()
                wait([future], timeout=JOINER_POLL_S)
            answers = future.result()
        finally:
            future.cancel()
        groups = []
        for answer in answers:
            if isinstance(answer, LostPrompt):
                raise RuntimeError(f"sample {answer.sample_id}: {answer.detail}")
            groups.append(answer)
        return groups

    def admit_joiners(self) -> None:
        """Bring workers that got ready lately, or said nothing at the last update, to the weights of the others, which
        the learner must still have."""
        self._take_size()
        for actor in self._pool.answering(self._pool.joiners, "answers", within_s=ANSWER_S):
            try:
                self._bring(actor)
            except LOST as error:
                self._pool.lose(actor, error)
            else:
                self._pool.let_in(actor)

    def update_weights(self, source: PolicyWeights) -> None:
        """Bring the workers that are up to the source's weights, and those that come later.

        They hold what they sample, take the weights and go on: all that answer at once, once more without those that
        were lost, then one by one through the object store; a worker that takes them neither way is replaced. When this
        returns, all have them, or wait to be admitted. With `rollout.on_update` finish the weights are stored, and each
        worker takes them by itself when its groups have ended.

        Raises:
            WeightsRefused: they do not fit the model; all workers keep their old weights.
            RuntimeError: workers keep failing.
        """
        self._take_size()
        if self._finishes:
            self._hand_out(source)
            return
        before, self._source = self._source, source
        try:
            sent, failures = self._sent(source)
        except WeightsRefused:
            self._source = before
            raise
        seconds = {f"timing_s/sync_{phase}": value for phase, value in sent.items() if phase != "mib"}
        self._sync = {**seconds, "perf/sync_mib": sent["mib"], "rollout/sync_failures": float(failures)}

    def meet_anew(self) -> None:
        """The learner was started anew: its next update meets the workers again."""
        self._collective = None

    def metrics(self) -> dict[str, float]:
        """Of the last update: seconds for each phase, MiB sent, attempts that failed. Workers replaced so far, and the
        share of the time since the last call in which they had nothing to do."""
        idle = 1 - self._pool.busy_frac()
        return {**self._sync, "rollout/workers_replaced": float(self.replacements), "perf/rollout_idle_frac": idle}

    def _take_size(self) -> None:
        wanted, self._wanted = self._wanted, None
        if wanted is not None:
            size, leaving = wanted
            self._pool.resize(size, leaving=leaving)

    def _sent(self, source: PolicyWeights) -> tuple[dict[str, float], int]:
        for failures in range(ATTEMPTS_TOGETHER):
            actors = self._answering()
            way = self._collective_of(actors) if source.is_collective else Stored()
            try:
                sent = stream(source, actors, way)
            except TransferFailed as error:
                log.warning("sending weights %d to all rollout workers failed: %s", source.policy_version, error)
                self._collective = None
                # Asked of all: where one is lost or stands still, a collective fails on the others too.
                self._pool.replace_silent("answers", deadline_s=source.deadline_s)
            else:
                self._let_in(actors)
                return sent, failures
        sent = {"mib": 0.0}
        for actor in self._up():
            try:
                sent = stream(source, [actor], Stored())
            except TransferFailed as error:
                self._pool.lose(actor, error)
            else:
                self._let_in([actor])
        return sent, ATTEMPTS_TOGETHER

    def _let_in(self, actors: Sequence[Any]) -> None:
        """Those that have the weights; who got ready meanwhile has not, and waits for `admit_joiners`."""
        joiners = self._pool.joiners
        for actor in actors:
            if actor in joiners:
                self._pool.let_in(actor)

    def _up(self) -> tuple[Any, ...]:
        """The workers that are up, all of them at the start; one at least. Others are admitted when they are."""
        if not self._pool.ready:
            self._pool.wait_ready()
        return self._pool.ready

    def _answering(self) -> tuple[Any, ...]:
        """Those that are up and say something; the others are joiners from now on. Where all are silent, all."""
        actors = self._up()
        # The only one is waited for in any case.
        answering = self._pool.answering(actors, "answers", within_s=ANSWER_S) if len(actors) > 1 else ()
        if not answering:
            return self._up()
        for actor in self._pool.ready:  # not those that were lost over the question
            if actor in actors and actor not in answering:
                log.warning("a rollout worker says nothing; it gets the next weights when it does")
                self._pool.set_aside(actor)
        return answering

    def _hand_out(self, source: PolicyWeights) -> None:
        started = time.perf_counter()
        update = store_update(source)
        self._source = update
        mib = sum(gathered.num_bytes for gathered, _ in update.portions) / 2**20
        self._sync = {"timing_s/sync_store": time.perf_counter() - started, "perf/sync_mib": mib}
        joiners = self._pool.joiners
        for actor in self._pool.ready:
            if actor not in joiners:
                # From here on it gets no group: one that sets out after this update must not be of the policy before.
                drained = self._pool.drain(actor)
                self._loading.submit(self._take_when_idle, actor, update, drained, self._turns[actor])

    def _take_when_idle(self, actor: Any, update: StoredUpdate, drained: Future[None], turn: threading.Lock) -> None:
        drained.result()
        with turn:
            # Another update came meanwhile: that one's turn is next.
            if self._source is not update:
                return
            try:
                stream(update.reader(), [actor], Stored())
            except Exception as error:
                # The replacement is brought by the main thread, which hears of what cannot be mended.
                self._pool.lose(actor, error)
                return
            if self._source is update:
                self._pool.let_in(actor)

    def _collective_of(self, actors: Sequence[Any]) -> Collective:
        if self._collective is None or self._collective.workers != tuple(actors):
            self._collective = Collective(actors, engines_per_worker=self._spec.rollout.tensor_parallel_size)
        return self._collective

    def load_checkpoint(self, model_path: str, policy_version: int) -> None:
        """Bring every worker to a checkpoint folder of the same architecture, which each of them reads.

        Raises:
            ConfigError, WeightsRefused: as `RolloutWorker.load_folder`; all workers keep their old weights.
        """
        before, self._source = self._source, CheckpointFolder(model_path, policy_version)
        try:
            self._pool.broadcast("load_folder", model_path, policy_version)
        except (ConfigError, WeightsRefused):
            self._source = before
            raise

    def shutdown(self) -> None:
        """End every worker and its engine."""
        self._loading.shutdown(wait=False, cancel_futures=True)
        self._pool.shutdown()

    def _create(self, index: int) -> Any:
        config = self._spec.rollout
        return (
            actor_class(RolloutWorker)
            .options(
                num_cpus=config.cpus_per_worker,
                num_gpus=config.gpus_per_worker,
                max_restarts=0,
                runtime_env={"env_vars": rollout_env(config, self._spec.device)},
            )
            .remote(self._spec)
        )

    def _bring(self, actor: Any) -> None:
        if isinstance(self._source, CheckpointFolder):
            folder, version = self._source.folder, self._source.policy_version
            fetch(actor.load_folder.remote(folder, version), deadline_s=START_DEADLINE_S, what=f"loading {folder}")
        elif isinstance(self._source, StoredUpdate):
            stream(self._source.reader(), [actor], Stored())
        elif self._source is not None:
            stream(self._source, [actor], Stored())


def _max_in_flight(config: RolloutConfig, group_size: int) -> int:
    """Groups that an engine has at a time.

    A group keeps its place until its longest response has ended, when most of its others have long left the engine: so
    many more than fit at once keep it full. Where responses end before an update, each of them makes it wait longer.
    """
    fit = -(-config.max_num_seqs // group_size)
    return 1 + fit if config.on_update == "finish" else 1 + 2 * fit


def _max_groups(config: RolloutConfig, group_size: int) -> int:
    return max(1, MAX_CALL_WAVES * config.max_num_seqs // group_size)


def call_parts(num_prompts: int, *, num_workers: int, max_groups: int) -> list[range]:
    """Consecutive, nearly equal shares of the prompts: one per worker, more where a share would exceed `max_groups`."""
    num_parts = min(num_prompts, max(num_workers, -(-num_prompts // max_groups)))
    bounds = [num_prompts * part // num_parts for part in range(num_parts + 1)] if num_parts else [0]
    return [range(start, stop) for start, stop in itertools.pairwise(bounds)]
