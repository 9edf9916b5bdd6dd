"""Terms from outside: any function, named in the configuration (`reward.extra`).

    reward:
      extra:
        brevity:
          function: my_rewards.brevity     # module.function, or /path/my_rewards.py:brevity
          weight: 0.2
          options: {max_words: 60}         # may be left out

The function is called as `brevity(reading, max_words=60)` with a `rewards.reading.Reading` and returns a number in
[0, 1] or a `Verdict`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import sys
import traceback
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from numbers import Real
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from rewards.reading import Reading
from rewards.types import ExtraTermConfig, Verdict, failed, scored


@lru_cache(maxsize=256)
def load_function(path: str) -> Callable[..., Any]:
    """The function at `module.function` or `file.py:function`; a relative file is one of the current folder.

    Raises:
        ValueError: there is no such module, file or function, or importing it fails.
    """
    file, colon, name = path.rpartition(":")
    if colon:
        module, what = _load_file(Path(file).expanduser().absolute()), f"the file {file}"
    else:
        module_name, _, name = path.rpartition(".")
        if not module_name:
            raise ValueError(f"{path!r} names no module; give it as module.function or as file.py:function")
        module, what = _load_module(module_name), f"the module {module_name!r}"
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"{what} has no function {name!r}")
    return function


def _load_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    # Whatever a user's module may raise is the user's to see, with the key it stands under.
    except Exception as error:
        raise ValueError(
            f"the module {name!r} cannot be imported ({_told(error)}{_place_of_import(error)}); "
            "mend it, put its folder on PYTHONPATH, or give the function as file.py:function"
        ) from error


@lru_cache(maxsize=64)
def _load_file(file: Path) -> ModuleType:
    """A file as a module of its own; its functions share it, and what it imports is looked for as usual."""
    name = f"own_terms_{zlib.crc32(bytes(file)):08x}_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise ValueError(
            f"there is no Python file {file}; give one as file.py:function that every reward worker can read"
        )
    module = importlib.util.module_from_spec(spec)
    # As an import does it: dataclasses and pickle look their module up there.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ValueError(f"{file} cannot be imported ({_told(error)}{_place_of_import(error)}); mend it") from error
    return module


def check_terms(terms: Mapping[str, ExtraTermConfig], *, taken: Iterable[str], probe: Reading) -> None:
    """Fail on a term that cannot be called, or whose verdict on a plain response is a failure.

    A term that fails after it looked for a column of the row is let through: `probe` has none (`check_term` with a
    real row finds out).

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
        columns = _NoColumns()
        try:
            check_term(name, term, probe._replace(context=replace(probe.context, extra=columns)))
        except ValueError:
            if not columns.were_asked_for:
                raise


def check_term(name: str, term: ExtraTermConfig, probe: Reading) -> None:
    """Fail on a term whose verdict on a plain response is a failure.

    Raises:
        ValueError: names the term, what went wrong, and where.
    """
    verdict = extra_verdict(name, term, probe)
    if verdict.status == "failure":
        context = probe.context
        # What belongs to no row has no columns to tell of.
        is_row = not isinstance(context.extra, _NoColumns)
        row = f" to row {context.sample_id!r}, whose own columns are {list(context.extra)}" if is_row else ""
        raise ValueError(f"reward.extra.{verdict.detail['reason']}; found by scoring a plain response{row}.")


def extra_verdict(name: str, term: ExtraTermConfig, reading: Reading) -> Verdict:
    """What a term says; a failure where its function raises or returns no number in [0, 1]."""
    try:
        function = load_function(term.function)
    except ValueError as error:
        return failed(f"{name}: {error}")
    try:
        said = function(reading, **term.options)
    # One odd response must not end a run; failures are counted in the metrics and leave the baselines.
    except Exception as error:
        return failed(f"{name}: {_told(error)}{_place(function, error)}")
    if isinstance(said, Verdict) and said.status != "score":
        reason = said.detail.get("reason", "no reason given")
        reason = f"{name}: {reason}" if said.status == "failure" else reason
        return Verdict(said.status, None, {**said.detail, "reason": reason})
    value, detail = (said.value, said.detail) if isinstance(said, Verdict) else (said, {})
    # A NaN is in no range; numpy's numbers are Real too.
    if isinstance(value, Real) and 0 <= float(value) <= 1:
        return scored(float(value), detail)
    return failed(f"{name}: {term.function} returned {said!r}, which is no number in [0, 1]{_place(function)}")


class _NoColumns(Mapping[str, Any]):
    """The own columns of a response that belongs to no row: none, and whether one was looked for."""

    def __init__(self) -> None:
        self.were_asked_for = False

    def __getitem__(self, key: str) -> Any:
        self.were_asked_for = True
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        self.were_asked_for = True
        return iter(())

    def __len__(self) -> int:
        self.were_asked_for = True
        return 0


def _told(error: Exception) -> str:
    """On one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def _place(function: Callable[..., Any], error: Exception | None = None) -> str:
    """` (file:line, in name)`: the last frame of a traceback in the function's own file, else where it is defined."""
    code = _code_of(function)
    if code is None:
        return ""
    frames = [] if error is None else traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == code.co_filename]
    line, name = (own[-1].lineno, own[-1].name) if own else (code.co_firstlineno, code.co_name)
    return f" ({code.co_filename}:{line}, in {name})"


def _code_of(function: Callable[..., Any]) -> CodeType | None:
    """Of what a decorator or a partial wraps; of an object its `__call__`; None for what is not written in Python."""
    while isinstance(function, functools.partial):
        function = function.func
    plain = inspect.unwrap(function)
    return getattr(plain, "__code__", None) or getattr(type(plain).__call__, "__code__", None)


def _place_of_import(error: Exception) -> str:
    """`, file:line`: where importing a module failed, below the import itself; empty where nothing of it ran."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename != __file__ and not frame.filename.startswith("<frozen")]
    # The import system's own Python file, and nothing of the user's.
    own = [frame for frame in own if frame.filename != importlib.__file__]
    return f", {own[-1].filename}:{own[-1].lineno}" if own else ""
