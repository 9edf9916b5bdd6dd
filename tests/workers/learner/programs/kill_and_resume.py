"""Kills runs in every phase of a step and lets them go on; writes down what each launch left.

python kill_and_resume.py FOLDER

Apps (`run_grpo`, `run_sft`), loops, checkpoints, learner, ranks and training backends are the real ones. Neither Ray
nor vLLM: ranks are forked processes behind pipes, transformers samples, prompts are made of random pixels, and the
reward is the share of odd token ids, which a random model can earn. Everything is imported once and forked for each
launch; a launch is a process group, and a kill is SIGKILL to all of it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np
from packed_prompts import a_prompt, logits_of
from streamed import sent_weights

from videor2_rl.app import compose_run
from videor2_rl.config.runs import GrpoRun, SftRun
from videor2_rl.types import Group, LostPrompt, PromptHandle, Rollout, SkippedSample

Chain = tuple[tuple[str, int], ...]
LEARNER_CHAIN: Chain = (("update", 4), ("sync", 5), ("save", 5))
GRPO_CHAIN: Chain = (("generate", 3), ("reward", 4), *LEARNER_CHAIN, ("latest", 5))
SFT_CHAIN: Chain = (("update", 3), ("save", 3))
"""Phase and step of each launch's kill; the launch after the last one ends by itself."""
CASES: dict[str, tuple[str, Chain]] = {
    "grpo-fsdp2": ("fsdp2", GRPO_CHAIN),
    # In the other phases no rank takes part.
    "grpo-deepspeed_zero2": ("deepspeed_zero2", LEARNER_CHAIN),
    "grpo-deepspeed_zero3": ("deepspeed_zero3", LEARNER_CHAIN),
    "sft-fsdp2": ("fsdp2", SFT_CHAIN),
    "sft-deepspeed_zero2": ("deepspeed_zero2", SFT_CHAIN),
}
ELSEWHERE = {
    "grpo-fsdp2": (("fsdp2", 1), ("deepspeed_zero3", 3)),
    "grpo-deepspeed_zero2": (("deepspeed_zero2", 1),),
    "grpo-deepspeed_zero3": (("fsdp2", 3),),
}
"""Backend and number of ranks with which a run killed in its update goes on, too."""
SIZES = {"grpo": 6, "sft": 4}
"""Steps of a run."""
PROMPTS_PER_STEP, GROUP_SIZE, RESPONSE_TOKENS = 2, 3, 5
TOKENS = range(20, 300)
"""Ordinary ones: a learner could not place a vision token."""
SKIPPED = "7"
"""A sample that cannot be used."""


@dataclass(frozen=True)
class Kill:
    """Where a launch ends; at step 0 nowhere."""

    phase: str = ""
    step: int = 0

    def at(self, phase: str, step: int) -> None:
        if (phase, step) == (self.phase, self.step):
            os.killpg(0, signal.SIGKILL)


# --- the parts of a run ---------------------------------------------------------------------------------------------


def begun(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
    """Done, at once."""
    future: Future[Any] = Future()
    future.set_result(function(*args, **kwargs))
    return future


class Weightless:
    """What stands in for a part's workers takes no memory of its own."""

    def memory(self) -> dict[str, float]:
        return {}


class Videos(Weightless):
    """Prompts of random tokens and pixels, which are a sample's own."""

    def __init__(self, video_token: int) -> None:
        self._video_token = video_token

    def prepare(self, samples: Sequence[Any]) -> list[PromptHandle | SkippedSample]:
        return [self._prepare(sample) for sample in samples]

    def begin_prepare(self, samples: Sequence[Any]) -> list[Future[PromptHandle | SkippedSample]]:
        return [begun(self._prepare, sample) for sample in samples]

    def prefetch(self, samples: Sequence[Any]) -> None:
        pass

    def decodes_per_clip(self) -> float:
        return 1.0

    def _prepare(self, sample: Any) -> PromptHandle | SkippedSample:
        if sample.sample_id == SKIPPED:
            return SkippedSample(sample.sample_id, sample.video, "empty", "")
        number = int(sample.sample_id)
        rng = np.random.default_rng(number)
        prompt = replace(a_prompt(rng, video_token=self._video_token, frames=1 + number % 3), sample_id=str(number))
        solution = rng.choice(TOKENS, 4 + number % 4)
        return PromptHandle(prompt.sample_id, prompt.clip_key, len(prompt.token_ids), prompt, solution_ids=solution)


class Rollouts(Weightless):
    """Samples with transformers; every response by a generator of its own, seeded as the rollout workers do it."""

    def __init__(self, network: Any, video_processor: Any, kill: Kill) -> None:
        self._network, self._video_processor, self._kill = network, video_processor, kill
        self._version = 0

    def generate(
        self, prompts: Sequence[PromptHandle], *, group_ids: Sequence[int], sampling: Any, seed: int
    ) -> list[Group]:
        groups = []
        for group_id, prompt in zip(group_ids, prompts, strict=True):
            groups.append(self._group(group_id, prompt.ref, seed=seed))
            self._kill.at("generate", step_of(group_id))
        return groups

    def begin_generate(self, prompts: Sequence[PromptHandle], **request: Any) -> Future[list[Group | LostPrompt]]:
        return begun(self.generate, prompts, **request)

    def admit_joiners(self) -> None:
        pass

    def update_weights(self, source: Any) -> None:
        import torch

        held, weights = self._network.state_dict(), sent_weights(source, np.asarray)
        for number, (name, values) in enumerate(weights.items()):
            if number == len(weights) // 2:
                self._kill.at("sync", source.policy_version)
            held[name].copy_(torch.from_numpy(values))
        self._version = source.policy_version

    def metrics(self) -> Mapping[str, float]:
        return {}

    def _group(self, group_id: int, prompt: Any, *, seed: int) -> Group:
        from workers.rollout.engine import sample_seed

        rngs = [np.random.default_rng(sample_seed(seed, group_id, place)) for place in range(GROUP_SIZE)]
        responses = np.empty((GROUP_SIZE, 0), dtype=np.int64)
        log_probs = np.empty((GROUP_SIZE, 0), dtype=np.float32)
        for _ in range(RESPONSE_TOKENS):
            logits = logits_of(self._network, self._video_processor, prompt, responses)[:, -1]
            following = logits.log_softmax(-1).numpy()
            odds = np.exp(following[:, TOKENS].astype(np.float64))
            tokens = [rng.choice(TOKENS, p=row / row.sum()) for rng, row in zip(rngs, odds, strict=True)]
            responses = np.column_stack([responses, tokens])
            log_probs = np.column_stack([log_probs, following[np.arange(GROUP_SIZE), tokens]])
        rollouts = zip(responses, log_probs, strict=True)
        return Group(
            group_id, prompt.sample_id, tuple(Rollout(ids, lps, "", "stop", self._version) for ids, lps in rollouts)
        )


class Rewards(Weightless):
    """The share of odd token ids."""

    def __init__(self, kill: Kill) -> None:
        self._kill = kill

    def score(self, groups: Sequence[Group], samples: Sequence[Any], *, step: int | None = None) -> list[list[Any]]:
        scores = []
        for group in groups:
            scores.append([scored(float((rollout.token_ids % 2).mean())) for rollout in group.rollouts])
            self._kill.at("reward", step_of(group.group_id))
        return scores

    def begin_score(self, groups: Sequence[Group], samples: Sequence[Any], **known: Any) -> Future[Any]:
        from videor2_rl.judge.counts import CallCounts
        from videor2_rl.training.protocols import ScoredGroups

        return begun(lambda: ScoredGroups(self.score(groups, samples, **known), CallCounts()))

    def check(self, scored: Any) -> None:
        pass

    def begin_write_rollouts(
        self, path: Path, records: Sequence[Any], prompts: Sequence[PromptHandle], *, token_values: Sequence[Any]
    ) -> Future[None]:
        from videor2_rl.run.rollout_log import write_rollouts

        found = [one for of_rank in token_values for one in of_rank]
        return begun(partial(write_rollouts, token_values=found), path, records, [prompt.ref for prompt in prompts])


def scored(reward: float) -> Any:
    from rewards.types import Scored, Verdict

    names = ("tac", "tar_precision", "tar_recall", "tar_f1", "format")
    verdict = Verdict("score", reward)
    return Scored(
        reward, {"accuracy": verdict, "temporal_alignment": verdict}, {**dict.fromkeys(names), "accuracy": reward}
    )


def step_of(group_id: int) -> int:
    return group_id // PROMPTS_PER_STEP + 1


# --- ranks ----------------------------------------------------------------------------------------------------------


class ForkedRanks:
    """`workers.learner.ranks.RankGroup` without Ray: each rank a forked process that answers through a pipe."""

    def __init__(self, name: str, config: Any, *, num_ranks: int, seed: int, kill: Kill, **_: Any) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = str(listener.getsockname()[1])
        self.num_ranks = num_ranks
        self._pipes = []
        self._turn = threading.Lock()
        for rank in range(num_ranks):
            ours, theirs = Pipe()
            environment = {"RANK": str(rank), "WORLD_SIZE": str(num_ranks), "MASTER_PORT": port}
            if os.fork() == 0:
                ending(partial(serve, theirs, config, environment, kill if rank == num_ranks - 1 else Kill()))
            self._pipes.append(ours)
        self.run("start", seed, what="starting")

    def run(self, method: str, *args: Any, what: str) -> list[Any]:
        from verl.single_controller.base.decorator import MAGIC_ATTR

        from workers.learner.rank import SHARES, LearnerWorker

        is_shared = getattr(getattr(LearnerWorker, method), MAGIC_ATTR)["dispatch_mode"] is SHARES
        with self._turn:
            for rank, pipe in enumerate(self._pipes):
                pipe.send((method, (args[0][rank], *args[1:]) if is_shared else args))
            answers = [pipe.recv() for pipe in self._pipes]
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    def begin(self, method: str, *args: Any) -> list[Any]:
        """What stands for references: the answers."""
        return self.run(method, *args, what=method)

    def shutdown(self) -> None:
        for pipe in self._pipes:
            pipe.send(None)


def serve(pipe: Any, config: Any, environment: Mapping[str, str], kill: Kill) -> None:
    """Be a rank until the driver says or is no more."""
    os.environ.update(environment, LOCAL_RANK="0", RAY_LOCAL_WORLD_SIZE=environment["WORLD_SIZE"])
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    from workers.learner.rank import LearnerWorker

    class Rank(LearnerWorker):
        """Hands over weights without an object store."""

        def store_bucket(self) -> Any:
            return self._sender.stored() if self.rank == 0 else None

    kill_while_writing(kill)
    worker = Rank(config)
    while (asked := pipe.recv()) is not None:
        method, args = asked
        try:
            pipe.send(getattr(worker, method)(*args))
        except Exception as error:
            traceback.print_exc()
            pipe.send(error)
        if method == "start":
            kill_in_update(worker.engine, kill)


def kill_in_update(engine: Any, kill: Kill) -> None:
    """Between this rank's optimiser step and its answer."""
    step = engine.optimizer_step

    def optimizer_step() -> float:
        norm = step()
        kill.at("update", engine.lr_scheduler.last_epoch + 1)
        return norm

    engine.optimizer_step = optimizer_step


def kill_while_writing(kill: Kill) -> None:
    """With half of the rank's file on the disk."""
    from workers.learner.engines import state

    write = state.write_fragments

    def write_fragments(path: Path, fragments: Any) -> None:
        write(path, fragments)
        if kill.phase == "save":
            os.truncate(path, path.stat().st_size // 2)
        kill.at("save", int(path.parent.name.split("_")[2]))

    state.write_fragments = write_fragments


def kill_before_latest(kill: Kill) -> None:
    """With a whole checkpoint to which `latest` does not yet point."""
    from videor2_rl.run import checkpoint

    write = checkpoint.write_text_atomic

    def write_text_atomic(path: Path, text: str) -> None:
        kill.at("latest", int(text.removeprefix("step_")))
        write(path, text)

    checkpoint.write_text_atomic = write_text_atomic


# --- launches -------------------------------------------------------------------------------------------------------


def ending(body: Callable[[], None]) -> None:
    """Run the body of a forked process, which never returns into its parent's code."""
    code = 1
    try:
        body()
        code = 0
    except EOFError:  # the driver is gone
        pass
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def launch(run: GrpoRun | SftRun, network: Any, video_processor: Any, kill: Kill = Kill()) -> int:
    """Let a run go until it ends or is killed; its exit code, negative: the signal."""
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        log = os.open(f"{run.output_dir}.log", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        os.dup2(log, 1)
        os.dup2(log, 2)
        ending(partial(drive, run, network, video_processor, kill))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def drive(run: GrpoRun | SftRun, network: Any, video_processor: Any, kill: Kill) -> None:
    """The app itself, with the parts above in place of those on Ray."""
    import workers.build
    import workers.learner.learner
    from videor2_rl.grpo import run_grpo
    from videor2_rl.sft import run_sft
    from videor2_rl.training.protocols import Workers
    from workers.learner.learner import Learner

    workers.learner.learner.RankGroup = partial(ForkedRanks, kill=kill)  # type: ignore[misc,assignment]
    kill_before_latest(kill)
    videos = Videos(network.config.video_token_id)

    @contextmanager
    def parts(run: GrpoRun | SftRun) -> Iterator[Any]:
        learner = Learner(run.learner, run.model, total_steps=SIZES["grpo"], seed=run.seed)
        if isinstance(run, SftRun):
            yield videos, learner
        else:
            rollouts = Rollouts(network, video_processor, kill)
            yield Workers(videos, learner.encoder, rollouts, Rewards(kill), learner, None)
        learner.shutdown()

    workers.build.grpo_workers = workers.build.sft_workers = parts
    if isinstance(run, SftRun):
        run_sft(run)
    else:
        run_grpo(run)


def configured(stage: str, folder: Path, name: str, *, backend: str, num_ranks: int = 2) -> Any:
    """The demo's configuration at this test's size; SFT trains adapters with dropout, which draws random numbers."""
    common = [
        f"model.path={folder}/model",
        f"data.train_file={folder}/rows.json",
        f"data.media_dir={folder}",
        f"output_dir={folder}/{name}",
        "data.max_skipped_frac=0.5",
        f"learner.backend={backend}",
        f"learner.num_ranks={num_ranks}",
        "learner.warmup_steps=1",
        "checkpoint.every_steps=1",
    ]
    if stage == "sft":
        sizes = [f"sft.num_steps={SIZES['sft']}", "sft.batch_size=4", "learner.learning_rate=1e-2"]
        adapter = ["model.lora.rank=4", "model.lora.dropout=0.2", "data.validation_file=null"]
        return compose_run("sft", SftRun, ["experiment=demo_sft", *common, *sizes, *adapter])
    sizes = [f"algorithm.num_steps={SIZES['grpo']}", f"algorithm.prompts_per_step={PROMPTS_PER_STEP}"]
    sizes += [f"algorithm.group_size={GROUP_SIZE}", f"rollout.max_response_tokens={RESPONSE_TOKENS}"]
    sizes += ["algorithm.kl_coefficient=0", "learner.learning_rate=1e-3"]
    return compose_run("grpo", GrpoRun, ["experiment=demo", *common, *sizes])


def left_by(run: Any, **launched: Any) -> dict[str, Any]:
    """What a launch left: rows of metrics, and the step from which the next one goes on."""
    from videor2_rl.run.checkpoint import Checkpoints
    from videor2_rl.run.tracking import read_metrics

    newest = Checkpoints(Path(run.output_dir), keep=2).newest()
    return {**launched, "newest": 0 if newest is None else newest.step, "rows": read_metrics(Path(run.output_dir))}


def play(case: str, folder: Path, network: Any, video_processor: Any) -> Iterator[dict[str, Any]]:
    """One run that nobody disturbs, one that is killed again and again, and copies of it that go on elsewhere."""
    stage = case.partition("-")[0]
    backend, chain = CASES[case]
    start = partial(launch, network=network, video_processor=video_processor)
    whole = configured(stage, folder, f"{case}-whole", backend=backend)
    yield left_by(whole, case=case, name="whole", code=start(whole))
    killed = configured(stage, folder, f"{case}-killed", backend=backend)
    for phase, step in chain:
        code = start(killed, kill=Kill(phase, step))
        yield left_by(killed, case=case, name=phase, step=step, code=code)
        if phase == "update":
            for other, num_ranks in ELSEWHERE.get(case, ()):
                copy = configured(stage, folder, f"{case}-{other}-{num_ranks}", backend=other, num_ranks=num_ranks)
                shutil.copytree(killed.output_dir, copy.output_dir)
                code = start(copy)
                yield left_by(copy, case=case, name="elsewhere", backend=other, num_ranks=num_ranks, code=code)
    yield left_by(killed, case=case, name="end", code=start(killed))


def main() -> None:
    folder = Path(sys.argv[1])
    from workers.learner.verl_config import learner_env

    os.environ.update(learner_env("cpu"))
    import deepspeed  # noqa: F401
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    import workers.build
    import workers.learner.rank  # noqa: F401
    from videor2_rl.demo.model import make_model

    torch.set_num_threads(1)
    # PyTorch makes a pool anew in whichever thread of a forked process first computes. gloo and autograd start several
    # at once, and one that comes while another is at it aborts the process ("Invalid thread pool!"): make it before.
    os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))
    make_model(folder / "model", seed=0)
    turns = [{"from": "human", "value": "<video>?"}, {"from": "gpt", "value": "<answer>A</answer>"}]
    rows = [{"id": str(number), "video": "none.mp4", "conversations": turns} for number in range(10)]
    (folder / "rows.json").write_text(json.dumps(rows))
    # Never opened: the prompts are made up.
    (folder / "none.mp4").touch()
    network = AutoModelForImageTextToText.from_pretrained(folder / "model", dtype=torch.float32)
    video_processor = AutoProcessor.from_pretrained(folder / "model").video_processor
    for case in sys.argv[2:] or CASES:
        launches = list(play(case, folder, network, video_processor))
        (folder / f"{case}.json").write_text(json.dumps(launches))


if __name__ == "__main__":
    main()
