"""A model in Hugging Face's layout from any checkpoint of a run.

    python -m videor2_rl.export outputs/demo/grpo exported                                 # its newest checkpoint
    python -m videor2_rl.export outputs/demo/grpo/checkpoints/step_000040 exported
    python -m videor2_rl.export RUN adapter --adapter                                      # LoRA: PEFT's layout

Adapters are merged unless --adapter is given. Needs no cluster and no GPU, and memory for the model.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videor2_rl.config.command_line import Parser
from videor2_rl.config.errors import ConfigError

if TYPE_CHECKING:
    from videor2_rl.config.sections import LoraConfig


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        print(export(arguments.source, arguments.out, model=arguments.model, as_adapter=arguments.adapter))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def export(source: Path, out: Path, *, model: Path | None, as_adapter: bool) -> str:
    """Write the model; says in one sentence what was written.

    Args:
        source: a run's folder (its newest checkpoint), or a checkpoint's.
        model: what the run began with, where config.yaml names another place; None: as it says.

    Raises:
        ConfigError: there is no whole checkpoint, or it does not fit the model.
    """
    from videor2_rl.run.checkpoint import Checkpoints, read_checkpoint

    if (source / "checkpoints").is_dir():
        run_dir, checkpoint = source, Checkpoints(source, keep=1).newest()
        if checkpoint is None:
            raise ConfigError(f"{source} holds no whole checkpoint; give the folder of a run that kept one")
    else:
        run_dir, checkpoint = source.resolve().parent.parent, read_checkpoint(source)
    section = _model_section(run_dir)
    base = Path(model or section["path"]).expanduser()
    if not (base / "config.json").is_file():
        raise ConfigError(f"{base} holds no config.json; give the model that the run began with as --model FOLDER")
    lora = _lora(section)
    if as_adapter and lora is None:
        raise ConfigError(f"{run_dir} trained without adapters (model.lora.rank=0); export without --adapter")
    from workers.learner.export import export_adapter, export_checkpoint

    if as_adapter and lora is not None:
        export_adapter(checkpoint.path, base, out, dtype=section["dtype"], lora=lora)
    else:
        export_checkpoint(checkpoint.path, base, out, dtype=section["dtype"], lora=lora)
    return f"wrote {out}: {'the adapter' if as_adapter else 'the model'} after step {checkpoint.step} of {run_dir}"


def _model_section(run_dir: Path) -> dict[str, Any]:
    """The `model` of a run's config.yaml.

    Raises:
        ConfigError: there is none.
    """
    import yaml

    file = run_dir / "config.yaml"
    if not file.is_file():
        raise ConfigError(f"{run_dir} holds no config.yaml; give a run's folder, or a checkpoint inside one")
    section: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))["model"]
    return section


def _lora(section: dict[str, Any]) -> LoraConfig | None:
    from videor2_rl.config.sections import LoraConfig

    lora = LoraConfig(**{**section["lora"], "targets": tuple(section["lora"]["targets"])})
    return lora if lora.rank > 0 else None


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m videor2_rl.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, metavar="RUN_OR_CHECKPOINT")
    parser.add_argument("out", type=Path, metavar="OUT", help="a folder that does not exist yet, or is empty")
    parser.add_argument("--model", type=Path, help="the model that the run began with, if it has moved")
    parser.add_argument("--adapter", action="store_true", help="the adapter alone, in PEFT's layout")
    return parser


if __name__ == "__main__":
    sys.exit(main())
