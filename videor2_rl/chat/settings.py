"""How a checkpoint is asked: as in the run that it comes from, where it lies in one's folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from videor2_rl.config.composing import Composer
from videor2_rl.config.errors import ConfigError
from videor2_rl.config.from_file import read_tree, run_from_tree
from videor2_rl.config.loading import load
from videor2_rl.config.overrides import composed, resolved
from videor2_rl.config.runs import ChatRun
from videor2_rl.model.folder import check_checkpoint, looks_like_hub_id, read_model_json
from videor2_rl.run.folder import CONFIG

_OF_THE_RUN = ("model", "video", "rollout")
_MODEL_FILE = "config.json"
_DRIVER = Path("/proc/driver/nvidia/version")


def chat_run(checkpoint: Path, overrides: Sequence[str]) -> tuple[ChatRun, Path | None]:
    """The configuration of a chat with a checkpoint, and the run that it is of.

    Args:
        checkpoint: a folder in Hugging Face's layout, or a run's, whose `hf/` it then is.
        overrides: KEY=VALUE and GROUP=NAME, on top of the run's configuration or of conf/chat.yaml.

    Raises:
        ConfigError: no checkpoint, a configuration that cannot be, or frames that the model cannot read.
    """
    from videor2_rl.model.family import check_frames
    from videor2_rl.video.subtitle_check import check_drawing

    folder, run_dir = find_checkpoint(checkpoint)
    check_checkpoint(str(folder), key="CHECKPOINT")
    composer = Composer("chat")
    if run_dir is None:
        config = composed(composer, ChatRun, overrides)
        config.model.path = str(folder)
        run = load(ChatRun, resolved(config, ChatRun))
    else:
        file = run_dir / CONFIG
        tree = {**_defaults(composer), **_sections(read_tree(file))}
        tree["model"] = {**tree["model"], "path": str(folder)}
        run = run_from_tree(composer, ChatRun, tree, overrides, file=file)
    run = replace(run, rollout=replace(run.rollout, max_model_tokens=_context(run, folder)))
    if run.rollout.max_prompt_tokens < 1:
        raise ConfigError(
            f"rollout.max_response_tokens: found {run.rollout.max_response_tokens}, and {folder} has a context of "
            f"{run.rollout.max_model_tokens} tokens; give less, the clip and the question need room too"
        )
    check_frames(run.model, run.video)
    check_drawing(run.video)
    return run, run_dir


def find_checkpoint(path: Path) -> tuple[Path, Path | None]:
    """The folder of a checkpoint in Hugging Face's layout, and that of the run which wrote it, if any.

    Raises:
        ConfigError: an id of the Hub, or a run that has exported none yet.
    """
    folder = path.expanduser()
    if looks_like_hub_id(str(path)) and not folder.is_dir():
        raise ConfigError(
            f"CHECKPOINT: there is no folder {path}, which looks like an id of the Hugging Face Hub; download it "
            f"first, hf download {path} --local-dir models/{path.name}, and give models/{path.name}"
        )
    if (folder / _MODEL_FILE).is_file():
        above = folder.absolute().parent
        return folder, above if folder.name == "hf" and (above / CONFIG).is_file() else None
    if (folder / CONFIG).is_file() and (folder / "hf" / _MODEL_FILE).is_file():
        return folder / "hf", folder
    if (folder / CONFIG).is_file() or folder.absolute().parent.name == "checkpoints":
        raise ConfigError(
            f"CHECKPOINT: {path} is of a run and holds no model in Hugging Face's layout; write it with "
            f"python -m videor2_rl.export {path} OUT, and give OUT"
        )
    return folder, None


def device_of(run: ChatRun) -> Literal["cpu", "cuda"]:
    """Where the engine runs. PyTorch is loaded only where there is a driver: what it is told by the environment must
    stand there before."""
    if run.device is not None:
        return run.device
    if not _DRIVER.exists():
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _defaults(composer: Composer) -> dict[str, Any]:
    from omegaconf import OmegaConf

    tree = OmegaConf.to_container(composer.compose([]), resolve=False)
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items() if key != "hydra"}


def _sections(tree: dict[str, Any]) -> dict[str, Any]:
    """Of a run's configuration what a chat has too; a judge that only the run had, and the paper's own reward, which
    asks one, leave our defaults."""
    found = {name: tree[name] for name in _OF_THE_RUN if name in tree}
    if tree.get("reward", {}).get("rule") == "video_r2":
        found["reward"] = tree["reward"]
    if tree.get("judge", {}).get("kind") == "openai":
        found["judge"] = tree["judge"]
    return found


def _context(run: ChatRun, folder: Path) -> int:
    """Tokens that prompt and response may have together: no more than the model was made for."""
    config = read_model_json(folder / _MODEL_FILE, key="CHECKPOINT")
    most = config.get("text_config", config).get("max_position_embeddings")
    return min(run.rollout.max_model_tokens, most) if isinstance(most, int) else run.rollout.max_model_tokens
