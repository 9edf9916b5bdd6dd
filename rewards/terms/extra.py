"""Terms from outside: any importable function, named in the configuration (`reward.extra`).

    reward:
      extra:
        brevity:
          function: my_rewards.brevity     # module.function
          weight: 0.2
          options: {max_words: 60}

The function is called as `brevity(reading, max_words=60)` with a `rewards.reading.Reading` and returns a number in
[0, 1] or a `Verdict`.
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

from rewards.reading import Reading
from rewards.types import ExtraTermConfig, Verdict, failed, scored


@lru_cache(maxsize=256)
def load_function(path: str) -> Callable[..., Any]:
    """The function at `module.function`.

    Raises:
        ValueError: there is no such module or function, or importing the module fails.
    """
    module_name, _, name = path.rpartition(".")
    if not module_name:
        raise ValueError(f"{path!r} names no module; give it as module.function")
    try:
        module = importlib.import_module(module_name)
    # Whatever a user's module may raise is the user's to see, with the key it stands under.
    except Exception as error:
        raise ValueError(
            f"the module {module_name!r} cannot be imported ({type(error).__name__}: {error}); "
            "mend it, or put its folder on PYTHONPATH"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"the module {module_name!r} has no function {name!r}")
    return function


def check_terms(terms: Mapping[str, ExtraTermConfig], *, taken: Iterable[str], probe: Reading) -> None:
    """Fail on a term that cannot be called, or whose verdict on a plain response is a failure.

    Args:
        taken: names that mean something already.
        probe: a plain response, read.

    Raises:
        ValueError: names the term, and what to mend.
    """
    for name, term in terms.items():
        if name in taken:
            raise ValueError(f"reward.extra.{name}: the name is that of a built-in term or metric; choose another.")
        try:
            function = load_function(term.function)
        except ValueError as error:
            raise ValueError(f"reward.extra.{name}.function: {error}.") from error
        try:
            inspect.signature(function).bind(probe, **term.options)
        except TypeError as error:
            raise ValueError(
                f"reward.extra.{name}.options: {term.function} does not take a reading and the options "
                f"{list(term.options)}: {error}."
            ) from error
        verdict = extra_verdict(name, term, probe)
        if verdict.status == "failure":
            raise ValueError(f"reward.extra.{verdict.detail['reason']}; found by scoring a plain response.")


def extra_verdict(name: str, term: ExtraTermConfig, reading: Reading) -> Verdict:
    """What a term says; a failure where its function raises or returns no number in [0, 1]."""
    try:
        said = load_function(term.function)(reading, **term.options)
    # One odd response must not end a run; failures are counted in the metrics and leave the baselines.
    except Exception as error:
        return failed(f"{name}: {type(error).__name__}: {error}")
    if isinstance(said, Verdict):
        return said
    if isinstance(said, (int, float)) and math.isfinite(said) and 0 <= said <= 1:
        return scored(float(said), {})
    return failed(f"{name}: {term.function} returned {said!r}, which is no number in [0, 1]")
