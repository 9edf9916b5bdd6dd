"""What a run will need, before anything is booked.

    python -m videor2_rl.doctor grpo --gpu-gib 80 --gpus 8 experiment=grpo_7b_1node model.path=... data.train_file=...

Reads the configuration, the checkpoint's config and the samples' lengths: no weight is loaded, no engine started, and
of each clip one frame is decoded. Exits with 1 when something does not fit, and names the first thing that does not.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videor2_rl.config.errors import ConfigError
from videor2_rl.config.sections import GrpoRun, SftRun

if TYPE_CHECKING:
    from videor2_rl.doctor.needs import Machine
    from videor2_rl.doctor.sizing import ModelShape, Need, SampleSize
    from videor2_rl.inputs import KeyFault
    from videor2_rl.types import VideoSample


def main(argv: Sequence[str] | None = None) -> int:
    arguments, overrides = _parser().parse_known_args(argv)
    from videor2_rl.doctor.needs import Machine

    machine = Machine(arguments.gpus, arguments.gpu_gib, arguments.cpus, arguments.gpu_flops)
    try:
        report = examine(arguments.app, overrides, machine, num_samples=arguments.samples)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report.as_json(), indent=1) + "\n", encoding="utf-8")
    print(report.text())
    return 1 if report.misfits else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="doctor", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("app", choices=("grpo", "sft"), help="whose configuration the KEY=VALUE overrides are")
    parser.add_argument("--gpus", type=int, help="GPUs there are")
    parser.add_argument("--gpu-gib", type=float, help="memory of one GPU (or, on CPUs, for each process) in GiB")
    parser.add_argument("--cpus", type=int, help="CPU cores there are")
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

    @property
    def misfits(self) -> list[Need]:
        return [need for need in self.needs if not need.fits]

    def as_json(self) -> dict[str, Any]:
        rows = {
            need.name: {"needed": need.needed, "available": need.available, "unit": need.unit} for need in self.needs
        }
        return {"lengths": self.lengths, "needs": rows, "misfits": [need.name for need in self.misfits]}

    def text(self) -> str:
        lines = [f"{name:<42}{value:>14,.0f}" for name, value in self.lengths.items()]
        lines += [f"skipped: {reason}" for reason in self.skipped[:5]]
        lines.append("")
        for need in self.needs:
            there = "" if need.available is None else f" of {need.available:,.4g}"
            mark = " " if need.fits else "!"
            lines.append(f"{mark} {need.name:<40}{need.needed:>14,.4g}{there} {need.unit:<8} {need.explanation}")
        first = next(iter(self.misfits), None)
        lines.append("")
        lines.append("everything fits" if first is None else f"does not fit first: {first.name}: {first.explanation}")
        return "\n".join(lines)


def examine(app: str, overrides: Sequence[str], machine: Machine, *, num_samples: int) -> Report:
    """The report of a configuration.

    Raises:
        ConfigError: the configuration, the dataset or the checkpoint cannot be read.
    """
    from videor2_rl.app import compose_run
    from videor2_rl.dataset import load_samples
    from videor2_rl.doctor.needs import clip_needs, grpo_needs, row_needs, sft_needs
    from videor2_rl.doctor.sizing import model_shape
    from videor2_rl.inputs import check_folders, check_time_keys, missing_clips
    from videor2_rl.model.family import check_frames
    from videor2_rl.model.folder import check_checkpoint

    run: GrpoRun | SftRun = (
        compose_run("grpo", GrpoRun, list(overrides)) if app == "grpo" else compose_run("sft", SftRun, list(overrides))
    )
    check_checkpoint(run.model.path, key="model.path", has_weights=False)
    check_frames(run.model, run.video)
    if run.data.train_file is None:
        raise ConfigError("data.train_file is required; give it as data.train_file=FILE")
    check_folders(run.data)
    samples = load_samples(run.data.train_file, data=run.data)
    if isinstance(run, GrpoRun):
        check_time_keys(samples, run.data.train_file, data=run.data)
    looked_at = samples[:: max(1, len(samples) // num_samples)][:num_samples]
    sizes, seconds, skipped, outside = sample_sizes(run, looked_at)
    missing = [f"missing: {sample.video}: no such file" for sample in missing_clips(samples)]
    needs = [
        clip_needs(run.data, (len(samples), missing), (len(looked_at), skipped)),
        *row_needs(run, samples, outside),
    ]
    shape = model_shape(run.model)
    if not sizes:
        return Report({"samples": len(samples), "samples looked at": 0}, needs, skipped)
    needs += (
        grpo_needs(run, shape, sizes, machine, decode_s=seconds)
        if isinstance(run, GrpoRun)
        else sft_needs(run, shape, sizes, machine)
    )
    return Report(_lengths(sizes, shape, len(samples)), needs, skipped)


def sample_sizes(
    run: GrpoRun | SftRun, samples: Sequence[VideoSample]
) -> tuple[list[SampleSize], float, list[str], list[KeyFault]]:
    """Exact token counts; seconds that decoding takes on the mean of a few clips; why samples were left out; time keys
    outside their clips.
    """
    import time

    from videor2_rl.doctor.sizing import SampleSize
    from videor2_rl.inputs import outside_keys
    from videor2_rl.model.prompt import PromptBuilder
    from videor2_rl.video.decode import decode, probe
    from videor2_rl.video.errors import VideoError

    builder = PromptBuilder(run.model)
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
                decode(sample.video, run.video, **bounds)
                seconds.append(time.perf_counter() - started)
        except VideoError as error:
            skipped.append(str(error))
            continue
        outside += outside_keys(sample, end_s=float(times_s[-1]))
        prompt, vision = builder.num_tokens(
            sample.question, sample.system_prompt, timestamps_s=times_s, height=height, width=width
        )
        response = None if isinstance(run, GrpoRun) else len(builder.encode_response(sample.solution))
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
