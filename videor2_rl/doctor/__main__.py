"""What a run will need, before anything is booked.

    python -m videor2_rl.doctor grpo --gpu-gib 80 --gpus 8 experiment=grpo_7b_1node model.path=... data.train_file=...

Reads the configuration, the checkpoint's config and the samples' lengths: no weight is loaded, no engine started, and
of each clip one frame is decoded. Exits with 1 when something does not fit, and names the first thing that does not.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videor2_rl.app import compose_run, make_data
from videor2_rl.config.command_line import Parser
from videor2_rl.config.errors import ConfigError
from videor2_rl.config.runs import EvaluateRun, GrpoRun, SftRun
from videor2_rl.run.storage import writing

if TYPE_CHECKING:
    from videor2_rl.doctor.machine import AnyRun, Machine
    from videor2_rl.doctor.sizing import ModelShape, Need, SampleSize
    from videor2_rl.inputs import KeyFault
    from videor2_rl.types import VideoSample

_APPS = ("grpo", "sft", "evaluate")
_OF_GPUS = ("GPUs", "learner rank memory", "rollout worker memory", "reference rank memory")
_FITS = "everything fits"


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_mixed(argv)
    from videor2_rl.doctor.machine import Machine

    machine = Machine(
        gpus=arguments.gpus,
        gpu_gib=arguments.gpu_gib,
        cpus=arguments.cpus,
        gpu_flops=arguments.gpu_flops,
        memory_gib=arguments.memory_gib,
    )
    try:
        report = examine(arguments.app, arguments.overrides, machine, num_samples=arguments.samples)
        if arguments.json is not None:
            with writing("--json", arguments.json):
                arguments.json.write_text(json.dumps(report.as_json(), indent=1) + "\n", encoding="utf-8")
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report.text())
    return 1 if report.misfits else 0


def _parser() -> Parser:
    parser = Parser(
        prog="python -m videor2_rl.doctor",
        description=(__doc__ or "").splitlines()[0],
        epilog="Exit code 0: everything fits; 1: something does not; 2: a mistake, told in one sentence. "
        "Without --gpus, --gpu-gib, --cpus and --memory-gib this machine is looked at.",
    )
    parser.add_argument("app", choices=_APPS, help="whose configuration the KEY=VALUE overrides are")
    parser.add_argument(
        "overrides",
        metavar="KEY=VALUE",
        nargs="*",
        default=[],
        help="what the app would be given, e.g. experiment=demo model.path=FOLDER; see the app's own --help",
    )
    parser.add_argument("--gpus", type=int, help="GPUs there are")
    parser.add_argument("--gpu-gib", type=float, help="memory of one GPU (or, on CPUs, for each process) in GiB")
    parser.add_argument("--cpus", type=int, help="CPU cores there are")
    parser.add_argument("--memory-gib", type=float, help="memory of the host in GiB")
    parser.add_argument("--gpu-flops", type=float, help="FLOP/s that one GPU really reaches, e.g. 2e14")
    parser.add_argument("--samples", type=int, default=256, help="samples looked at (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser


@dataclass(frozen=True)
class Report:
    """Lengths, needs, and what cannot be held against a limit."""

    lengths: dict[str, float]
    needs: list[Need]
    skipped: list[str]
    notes: list[str]
    """What the figures rest on."""
    mends: dict[str, str]
    """For a need that is not met, the one KEY=VALUE with which it would be."""

    @property
    def misfits(self) -> list[Need]:
        return [need for need in self.needs if not need.fits]

    def as_json(self) -> dict[str, Any]:
        rows = {
            need.name: {"needed": need.needed, "available": need.available, "unit": need.unit} for need in self.needs
        }
        return {
            "lengths": self.lengths,
            "needs": rows,
            "misfits": [need.name for need in self.misfits],
            "mends": self.mends,
            "notes": self.notes,
        }

    def text(self) -> str:
        lines = [f"{name:<42}{value:>14,.0f}" for name, value in self.lengths.items()]
        lines += [f"skipped: {reason}" for reason in self.skipped[:5]]
        lines.append("")
        for need in self.needs:
            there = "" if need.available is None else f" of {need.available:,.4g}"
            mark = " " if need.fits else "!"
            lines.append(f"{mark} {need.name:<40}{need.needed:>14,.4g}{there} {need.unit:<8} {need.explanation}")
        first = next(iter(self.misfits), None)
        lines += ["", *self.notes, ""]
        lines += [f"{name} would fit with {change}" for name, change in self.mends.items()]
        if first is not None:
            lines.append(f"does not fit first: {first.name}: {first.explanation}")
        else:
            has_gpus = any(need.name == "GPUs" and need.needed > 0 for need in self.needs)
            open_ = [need.name for need in self.needs if need.available is None and need.name in _OF_GPUS and has_gpus]
            unknown = ", ".join(open_)
            lines.append(f"everything that could be compared fits; not compared: {unknown}" if unknown else _FITS)
        return "\n".join(lines)


def examine(app: str, overrides: Sequence[str], machine: Machine, *, num_samples: int) -> Report:
    """The report of a configuration.

    Raises:
        ConfigError: the configuration, the dataset or the checkpoint cannot be read.
    """
    from videor2_rl.doctor.lengths import BYTES_PER_TOKEN, is_config_alone
    from videor2_rl.doctor.machine import machine_for
    from videor2_rl.doctor.mends import mends
    from videor2_rl.doctor.needs import clip_needs, row_needs
    from videor2_rl.inputs import missing_clips
    from videor2_rl.model.family import check_frames
    from videor2_rl.model.folder import check_checkpoint, existing_folder, read_model_json
    from videor2_rl.model.weights import check_weights
    from videor2_rl.video.subtitle_check import check_drawing

    run = _composed(app, overrides)
    make_data(run.data)
    folders = list(run.evaluation.folders.items()) if isinstance(run, EvaluateRun) else [("model.path", run.model.path)]
    for name, folder in folders:
        key = "model.path" if folder == run.model.path else f"evaluation.checkpoints, {name}"
        if not is_config_alone(folder):
            check_checkpoint(folder, key=key)
            check_weights(folder, key=key)
        else:
            read_model_json(existing_folder(folder, key=key, holding="config.json") / "config.json", key=key)
        check_frames(replace(run.model, path=folder), run.video)
    check_drawing(run.video)
    run = replace(run, model=replace(run.model, path=folders[0][1]))
    samples = _samples(run)
    machine = machine_for(run, machine)
    looked_at = samples[:: max(1, len(samples) // num_samples)][:num_samples]
    sizes, seconds, skipped, outside = sample_sizes(run, looked_at)
    missing = [f"missing: {sample.video}: no such file" for sample in missing_clips(samples)]
    needs = [
        clip_needs(run.data, (len(samples), missing), (len(looked_at), skipped)),
        *row_needs(run, samples, outside),
    ]
    notes = [machine.text()]
    if is_config_alone(run.model.path):
        notes.append(
            f"lengths are estimates: {run.model.path} holds config.json alone, so text counts a token for "
            f"{BYTES_PER_TOKEN} bytes; the video's tokens are exact"
        )
    if not sizes:
        return Report({"samples": len(samples), "samples looked at": 0}, needs, skipped, notes, {})
    shape, needs_of = _needs(run, [folder for _, folder in folders], sizes, machine, seconds, len(samples))
    asked = needs_of(run)
    return Report(_lengths(sizes, shape, len(samples)), needs + asked, skipped, notes, mends(run, asked, needs_of))


def _composed(app: str, overrides: Sequence[str]) -> AnyRun:
    if app == "grpo":
        return compose_run("grpo", GrpoRun, overrides)
    return compose_run("sft", SftRun, overrides) if app == "sft" else compose_run("evaluate", EvaluateRun, overrides)


def _samples(run: AnyRun) -> list[VideoSample]:
    """The rows that the app would read, after the checks that it makes of them.

    Raises:
        ConfigError: there are none, or one is malformed.
    """
    from videor2_rl.dataset import load_samples
    from videor2_rl.inputs import check_folders, check_time_keys

    if isinstance(run, EvaluateRun):
        from videor2_rl.evaluation.held_out import held_out

        if run.evaluation.benchmark is None:
            check_folders(run.data)
        return list(held_out(run).samples)
    if run.data.train_file is None:
        raise ConfigError("data.train_file is required; give it as data.train_file=FILE")
    check_folders(run.data)
    samples = load_samples(run.data.train_file, data=run.data)
    if isinstance(run, GrpoRun):
        check_time_keys(samples, run.data.train_file, data=run.data)
    return samples


def _needs(
    run: AnyRun,
    folders: Sequence[str],
    sizes: Sequence[SampleSize],
    machine: Machine,
    seconds: float,
    num_samples: int,
) -> tuple[ModelShape, Callable[[AnyRun], list[Need]]]:
    """The largest checkpoint's shape, and what a configuration needs for it."""
    from videor2_rl.doctor.needs import evaluate_needs, grpo_needs, sft_needs
    from videor2_rl.doctor.sizing import model_shape
    from videor2_rl.evaluate import PROMPTS_PER_CALL

    shapes = [model_shape(replace(run.model, path=folder)) for folder in folders]
    shape = max(shapes, key=lambda each: each.parameters)

    def needs_of(changed: AnyRun) -> list[Need]:
        if isinstance(changed, EvaluateRun):
            return evaluate_needs(
                changed,
                shape,
                sizes,
                machine,
                decode_s=seconds,
                num_samples=num_samples,
                prompts_per_call=PROMPTS_PER_CALL,
            )
        if isinstance(changed, GrpoRun):
            return grpo_needs(changed, shape, sizes, machine, decode_s=seconds)
        return sft_needs(changed, shape, sizes, machine)

    return shape, needs_of


def sample_sizes(
    run: AnyRun, samples: Sequence[VideoSample]
) -> tuple[list[SampleSize], float, list[str], list[KeyFault]]:
    """Exact token counts; seconds that decoding takes on the mean of a few clips; why samples were left out; time keys
    outside their clips.
    """
    import time

    from videor2_rl.doctor.lengths import lengths_of
    from videor2_rl.doctor.sizing import SampleSize
    from videor2_rl.inputs import outside_keys
    from videor2_rl.video.decode import probe
    from videor2_rl.video.errors import VideoError
    from videor2_rl.video.load import seen_frames

    builder = lengths_of(run.model)
    sizes: list[SampleSize] = []
    seconds: list[float] = []
    skipped: list[str] = []
    outside: list[KeyFault] = []
    for sample in samples:
        bounds = {"start_s": sample.clip_start_s, "end_s": sample.clip_end_s}
        try:
            times_s, height, width = probe(sample.video, run.video, **bounds)
            if len(seconds) < 8:
                started = time.perf_counter()
                seen_frames(sample, run.video)
                seconds.append(time.perf_counter() - started)
        except VideoError as error:
            skipped.append(str(error))
            continue
        outside += outside_keys(sample, end_s=float(times_s[-1]))
        prompt, vision = builder.num_tokens(
            sample.question, sample.system_prompt, timestamps_s=times_s, height=height, width=width
        )
        response = None if not isinstance(run, SftRun) else len(builder.encode_response(sample.solution))
        sizes.append(SampleSize(prompt, vision, response, len(times_s)))
    return sizes, sum(seconds) / max(1, len(seconds)), skipped, outside


def _lengths(sizes: Sequence[SampleSize], shape: ModelShape, num_samples: int) -> dict[str, float]:
    prompts = sorted(size.prompt_tokens for size in sizes)
    return {
        "samples": num_samples,
        "samples looked at": len(sizes),
        "prompt tokens, mean": sum(prompts) / len(prompts),
        "prompt tokens, median": prompts[len(prompts) // 2],
        "prompt tokens, longest": prompts[-1],
        "frames, most": max(size.num_frames for size in sizes),
        "parameters": shape.parameters,
        "of them vision tower and merger": shape.vision_parameters + shape.merger_parameters,
    }


if __name__ == "__main__":
    sys.exit(main())
