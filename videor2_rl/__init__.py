"""Video-R2 RL: post-training of video-language models with timestamp-aware SFT and GRPO."""

import sys
from importlib.util import find_spec
from pathlib import Path


def _refuse_namesakes() -> None:
    """End an app that would import a file of the user's in place of one of our packages.

    `python -m` looks into the current folder first, where conf/ or rewards.py are likely names. Here, since every app's
    own imports would fail before it could say so.
    """
    root = Path(__file__).resolve().parents[1]
    for name in ("conf", "rewards", "workers"):
        spec = find_spec(name)
        found = [] if spec is None else list(spec.submodule_search_locations or [str(spec.origin)])
        if found and root / name not in [Path(place).resolve() for place in found]:
            other = " (--config-dir takes any name)" if name == "conf" else ""
            mend = f"rename it{other}, or start from another folder"
            print(f"error: {found[0]} hides this project's package {name}; {mend}", file=sys.stderr)
            sys.exit(2)


# "-m": what Python calls a module's program until it has found it.
if sys.argv[:1] == ["-m"] or Path(sys.argv[0] if sys.argv else "").name.startswith("videor2-"):
    _refuse_namesakes()
