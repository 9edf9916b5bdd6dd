"""Terms from outside, terms that shape, and bounds on terms."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.compose import check_config, check_row, score_response, term_weights
from rewards.reading import Reading, group_contexts, read_response
from rewards.terms import shaping
from rewards.terms.extra import load_function
from rewards.types import Context, ExtraTermConfig, Similarity, Target, Verdict, VideoR2Config, abstained

README = Path(__file__).parents[3] / "rewards" / "README.md"
RESPONSE = "<think>At 00:02 a red square appears. The first is red (A).</think><answer>A</answer>"


def test_a_reward_of_ones_own_as_the_readme_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy_target: Target, by_words: Similarity
) -> None:
    from videor2_rl.app import compose_run
    from videor2_rl.config.runs import GrpoRun

    text = README.read_text(encoding="utf-8")
    [block] = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "def brevity" in block]
    (tmp_path / "my_rewards.py").write_text(block)
    (tmp_path / "my_conf" / "reward").mkdir(parents=True)
    (tmp_path / "my_conf" / "reward" / "brief.yaml").write_text(re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[0])
    assert "--config-dir my_conf reward=brief" in text
    monkeypatch.chdir(tmp_path)
    overrides = ["model.path=m", "data.train_file=t", "data.media_dir=d"]
    run = compose_run("grpo", GrpoRun, [f"hydra.searchpath=[file://{tmp_path}/my_conf]", *overrides, "reward=brief"])
    # Workers have other current folders.
    monkeypatch.chdir("/")
    in_overrides = [
        word for word in re.findall(r"\+reward\.extra\S+", text) if word.startswith("+reward.extra.brevity.")
    ]
    assert len(in_overrides) == 3
    monkeypatch.chdir(tmp_path)
    assert compose_run("grpo", GrpoRun, [*overrides, *in_overrides]).reward == run.reward
    assert term_weights(run.reward)["brevity"] == 0.2
    scored = score_response(RESPONSE, toy_target, run.reward, similarity=by_words)
    # 11 words where 10 are free; TAR: one of one claim and of three events, F1 1/2.
    assert scored.terms["brevity"].value == pytest.approx(10 / 11)
    assert scored.reward == pytest.approx(1 + 1 + 1 / 2 + 0.2 * 10 / 11)


def half(reading: Reading) -> float:
    return 0.5


def shy(reading: Reading) -> Verdict:
    return abstained("not today")


def too_much(reading: Reading) -> float:
    return 3.0


def fragile(reading: Reading) -> float:
    return 1.0 / len(reading.claims or ())


def single(reading: Reading) -> np.float32:
    return np.float32(0.25)


def nowhere(reading: Reading) -> Verdict:
    return Verdict("score", math.nan)


def forgetful(reading: Reading) -> Verdict:
    return Verdict("failure", 1.0, {"seen": 3})


def paid_abstention(reading: Reading) -> Verdict:
    return Verdict("abstention", 1.0)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name under which this module can be imported."""
    monkeypatch.setitem(sys.modules, "own_terms", sys.modules[__name__])
    return "own_terms"


def with_term(config: VideoR2Config, function: str, weight: float = 1.0, **options: Any) -> VideoR2Config:
    return replace(config, extra={"mine": ExtraTermConfig(function, weight, options)})


def test_a_term_adds_its_weighted_value_and_an_abstention_nothing(
    here: str, config: VideoR2Config, toy_target: Target, by_words: Similarity
) -> None:
    def reward(changed: VideoR2Config) -> float | None:
        return score_response(RESPONSE, toy_target, changed, similarity=by_words).reward

    plain = reward(config)
    assert plain is not None
    assert reward(with_term(config, f"{here}.half", 0.4)) == pytest.approx(plain + 0.2)
    assert reward(with_term(config, f"{here}.half", -0.4)) == pytest.approx(plain - 0.2)
    assert reward(with_term(config, f"{here}.shy")) == plain


def test_a_function_that_raises_fails_its_term_and_takes_the_reward_where_it_pays(
    here: str, config: VideoR2Config, toy_target: Target, by_words: Similarity
) -> None:
    for weight, is_paid in ((1.0, False), (0.0, True)):
        scored = score_response(
            "<think>x</think><answer>A</answer>",
            toy_target,
            with_term(config, f"{here}.fragile", weight),
            similarity=by_words,
        )
        assert scored.terms["mine"].status == "failure"
        assert "ZeroDivisionError" in scored.terms["mine"].detail["reason"]
        assert (scored.reward is not None) == is_paid


@pytest.mark.parametrize(
    ("function", "options", "sentence"),
    [
        ("no_such_module.f", {}, "reward.extra.mine.function: the module 'no_such_module' cannot be imported"),
        ("own_terms.nothing", {}, "the module 'own_terms' has no function 'nothing'"),
        ("brevity", {}, "'brevity' names no module; give it as module.function or as file.py:function"),
        (
            "/none/own.py:f",
            {},
            "reward.extra.mine.function: there is no Python file /none/own.py; give one as",
        ),
        ("own_terms.nowhere", {}, "value=nan, detail={}), which is no number in [0, 1]"),
        ("own_terms.forgetful", {}, "reward.extra.mine: no reason given; found by scoring a plain response"),
        ("own_terms.half", {"words": 3}, "reward.extra.mine.options: own_terms.half does not take"),
        ("own_terms.too_much", {}, "own_terms.too_much returned 3.0, which is no number in [0, 1]"),
        ("rewards.terms.shaping.length", {"min_words": 9, "max_words": 3, "zero_words": 5}, "min_words <= max_words"),
        ("rewards.terms.shaping.repetition", {"ngram": 0}, "repetition needs ngram >= 1"),
    ],
)
def test_a_term_that_cannot_work_is_named_before_a_run(
    function: str, options: dict[str, Any], sentence: str, here: str, config: VideoR2Config
) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        check_config(with_term(config, function, **options))


OWN = """\
import functools

def helper(text):
    return 1 / text.count("never")

def plain(reading):
    return helper(reading.response)

def noted(function):
    @functools.wraps(function)
    def wrapper(reading, **options):
        return function(reading, **options)
    return wrapper

@noted
def wrapped(reading, *, share):
    return share / len(reading.context.extra)

def rated(reading):
    rating = reading.context.extra["rating"]
    return rating * 1.0

def generous(reading):

    return 2
"""


@pytest.fixture
def own_file(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path / "own.py"


def test_a_function_is_named_by_its_file_and_needs_no_options(
    own_file: Path, config: VideoR2Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ExtraTermConfig("f", 1.0).options == {}
    generous = load_function(f"{own_file}:generous")
    # The functions of a file share one module, which is there under its name.
    assert load_function(f"{own_file}:plain").__globals__ is generous.__globals__
    assert vars(sys.modules[generous.__module__]) is generous.__globals__
    monkeypatch.chdir(own_file.parent)
    assert load_function("own.py:generous") is generous
    with pytest.raises(ValueError, match=r"the file own\.py has no function 'none'"):
        load_function("own.py:none")


@pytest.mark.parametrize(
    ("function", "options", "sentence"),
    [
        ("plain", {}, "ZeroDivisionError: division by zero ({file}:4, in helper); found by scoring"),
        ("generous", {}, "own.py:generous returned 2, which is no number in [0, 1] ({file}:23, in generous)"),
    ],
)
def test_a_failure_names_file_and_line_of_the_users_function(
    function: str, options: dict[str, Any], sentence: str, own_file: Path, config: VideoR2Config, toy_target: Target
) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence.format(file=own_file))):
        check_config(with_term(config, f"{own_file}:{function}", **options))


def test_a_failure_below_a_decorator_and_one_in_a_run_name_the_line_too(
    own_file: Path, config: VideoR2Config, toy_target: Target, by_words: Similarity
) -> None:
    changed = with_term(config, f"{own_file}:wrapped", share=1.0)
    check_config(changed)
    failed = score_response(RESPONSE, toy_target, changed, similarity=by_words).terms["mine"]
    assert failed.detail["reason"] == f"mine: ZeroDivisionError: float division by zero ({own_file}:17, in wrapped)"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x = 1\nraise RuntimeError('two\\nlines')\n", "RuntimeError: two lines, {file}:2)"),
        ("def f(:\n", "SyntaxError: invalid syntax (broken.py, line 1)"),
        ("import no_such_thing_at_all\n", "ModuleNotFoundError: No module named 'no_such_thing_at_all', {file}:1)"),
    ],
)
def test_a_file_that_cannot_be_imported_is_named_with_its_line(text: str, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text(text)
    with pytest.raises(ValueError, match=re.escape(sentence.format(file=file))):
        load_function(f"{file}:f")


def test_a_term_gets_the_rows_own_columns_and_is_tried_on_a_real_row(
    own_file: Path, config: VideoR2Config, toy_target: Target, by_words: Similarity
) -> None:
    changed = with_term(config, f"{own_file}:rated")
    # A plain response belongs to no row, so this says nothing against the term.
    check_config(changed)
    check_row(toy_target, Context("clip-1", {"rating": 0.5}), changed)
    sentence = (
        f"'rating' ({own_file}:20, in rated); found by scoring a plain response to row 'clip-1', whose own columns"
    )
    with pytest.raises(ValueError, match=re.escape(f"{sentence} are ['grade'].")):
        check_row(toy_target, Context("clip-1", {"grade": 1}), changed)
    context = Context("clip-1", {"rating": 0.5})
    scored = score_response(RESPONSE, toy_target, changed, similarity=by_words, context=context)
    assert scored.terms["mine"].value == 0.5


def test_the_readmes_terms_on_columns_and_siblings(config: VideoR2Config, toy_target: Target) -> None:
    names: dict[str, Any] = {}
    [block] = [text for text in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL) if "siblings" in text]
    exec(block, names)
    context = Context("clip-1", {"duration_s": 5.0}, siblings=(RESPONSE, "other"))
    late = RESPONSE.replace("appears.", "appears. At 00:07 it leaves.")
    assert names["unlike_the_others"](read_response(RESPONSE, toy_target, config, context=context)) == 0.5
    assert names["unlike_the_others"](read_response(RESPONSE, toy_target, config)) == 1.0
    assert names["against_the_clip_length"](read_response(late, toy_target, config, context=context)) == 0.5


def test_a_group_gives_each_response_its_place_and_its_siblings() -> None:
    shared = Context("clip-1", {"a": 1}, step=4, group_id=7)
    first, second, third = group_contexts(shared, ["x", "y", "x"], ["stop", "length", "abort"])
    assert (second.siblings, second.response_index, second.finish_reason) == (("x", "x"), 1, "length")
    assert (first.siblings, third.siblings, third.step, third.group_id) == (("y", "x"), ("x", "y"), 4, 7)


def test_verdicts_are_taken_as_they_can_be_meant(
    here: str, config: VideoR2Config, toy_target: Target, by_words: Similarity
) -> None:
    def verdict(function: str) -> Verdict:
        changed = with_term(config, f"{here}.{function}")
        return score_response(RESPONSE, toy_target, changed, similarity=by_words).terms["mine"]

    assert (verdict("single").value, type(verdict("single").value)) == (0.25, float)
    assert verdict("nowhere").status == "failure"
    assert verdict("forgetful").detail == {"seen": 3, "reason": "mine: no reason given"}
    assert verdict("paid_abstention").value is None


def test_a_name_that_is_taken_is_refused(here: str, config: VideoR2Config) -> None:
    term = ExtraTermConfig(f"{here}.half", 1.0, {})
    for name in ("format", "tar_f1"):
        with pytest.raises(ValueError, match="name is that of a built-in term or metric"):
            check_config(replace(config, extra={name: term}))


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("reward.temporal_alignment.beta=0", "reward.temporal_alignment.beta: found 0.0"),
        ("reward.temporal_alignment.buffer_seconds=-1", "reward.temporal_alignment.buffer_seconds: found -1.0"),
        ("reward.temporal_alignment.range_cost_per_second=-1", "range_cost_per_second: found -1.0"),
        ("reward.accuracy.weight=nan", "reward.accuracy.weight: found nan"),
        ("+reward.only_above_accuracy.accuracy=0.1", "reward.only_above_accuracy.accuracy: there is no such term"),
        ("+reward.only_above_accuracy.tar=0.1", "use one of format, consistency, temporal_alignment"),
        ("+reward.only_above_accuracy.format=1", "reward.only_above_accuracy.format: found 1.0"),
    ],
)
def test_a_value_out_of_range_is_named_before_a_run(
    override: str, sentence: str, reward_config: Callable[..., VideoR2Config]
) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        check_config(reward_config("video_r2", override))


def test_every_shipped_reward_can_score(reward_config: Callable[..., VideoR2Config]) -> None:
    files = list((README.parents[1] / "conf" / "reward").glob("*.yaml"))
    assert {"video_r2", "video_r2_official", "no_gate", "no_tar", "shaped"} <= {file.stem for file in files}
    for file in files:
        config = reward_config(file.stem)
        check_config(config)
        assert all(math.isfinite(weight) for weight in term_weights(config).values()), file


def test_a_bounded_term_counts_only_where_accuracy_is_above_the_bound(
    reward_config: Callable[..., VideoR2Config], toy_target: Target, by_words: Similarity
) -> None:
    config = reward_config("video_r2", "+reward.only_above_accuracy.temporal_alignment=0.1")
    wrong = RESPONSE.replace("red (A)", "blue (C)").replace("<answer>A", "<answer>C")
    right_one, wrong_one = (score_response(text, toy_target, config, similarity=by_words) for text in (RESPONSE, wrong))
    assert right_one.reward == 2.5
    assert wrong_one.reward == 1.0
    assert wrong_one.terms["temporal_alignment"].value == 0.0
    assert wrong_one.terms["temporal_alignment"].detail["withheld"] == 0.5
    assert wrong_one.metrics["tar_precision"] == 1.0


def reading_of(think: str, config: VideoR2Config, target: Target) -> Reading:
    return read_response(f"<think>{think}</think><answer>A</answer>", target, config)


@pytest.mark.parametrize(
    ("count", "value"), [(0, 0.0), (1, 0.25), (4, 1.0), (8, 1.0), (9, 0.75), (11, 0.25), (12, 0.0), (50, 0.0)]
)
def test_length_pays_between_its_bounds(count: int, value: float, config: VideoR2Config, toy_target: Target) -> None:
    reading = reading_of("word " * count, config, toy_target)
    assert shaping.length(reading, min_words=4, max_words=8, zero_words=12).value == pytest.approx(value)


def test_repetition_is_the_share_of_distinct_runs(config: VideoR2Config, toy_target: Target) -> None:
    # ab bc ca ab bc: three distinct of five.
    assert shaping.repetition(reading_of("x b c x b c", config, toy_target), ngram=2).value == pytest.approx(3 / 5)
    assert shaping.repetition(reading_of("one", config, toy_target), ngram=2).value == 1.0
    nothing = read_response("<answer>A</answer>", toy_target, config)
    assert shaping.repetition(nothing, ngram=2).value == 0.0


@given(st.lists(st.sampled_from("pqr"), max_size=30), st.integers(1, 5))
def test_repetition_is_a_share_and_one_exactly_without_a_run_twice(
    config: VideoR2Config, toy_target: Target, words: list[str], ngram: int
) -> None:
    value = shaping.repetition(reading_of(" ".join(words), config, toy_target), ngram=ngram).value
    runs = [tuple(words[start : start + ngram]) for start in range(len(words) - ngram + 1)]
    assert value is not None and 0.0 < value <= 1.0
    assert (value == 1.0) == (len(runs) == len(set(runs)))


def test_a_bound_on_accuracy_is_itself_not_above_it(
    reward_config: Callable[..., VideoR2Config], toy_target: Target, by_words: Similarity
) -> None:
    config = reward_config("video_r2", "+reward.only_above_accuracy.format=0.0")
    check_config(config)
    wrong = RESPONSE.replace("<answer>A", "<answer>C")
    right_one, wrong_one = (score_response(text, toy_target, config, similarity=by_words) for text in (RESPONSE, wrong))
    assert (right_one.terms["format"].value, wrong_one.terms["format"].value) == (1.0, 0.0)
    assert wrong_one.terms["format"].detail["withheld"] == 1.0
    # Free text may earn a share: 2 of 2 and 2 of 4 letters agree, F1 2/3; pairs 1 of 1 and 1 of 3, F1 1/2: 7/12.
    target = Target("What?", "p q r s")
    for bound, is_withheld in ((0.59, True), (0.58, False)):
        changed = replace(config, only_above_accuracy={"format": bound})
        scored = score_response("<think>So p.</think><answer>p q</answer>", target, changed, similarity=by_words)
        assert scored.terms["accuracy"].value == pytest.approx(7 / 12)
        assert ("withheld" in scored.terms["format"].detail) == is_withheld


@pytest.mark.parametrize(
    ("section", "key", "value", "is_allowed"),
    [
        ("temporal_alignment", "similarity_threshold", -1.0, True),
        ("temporal_alignment", "similarity_threshold", -1.01, False),
        ("temporal_alignment", "max_range_excess_seconds", 0.0, True),
        ("temporal_alignment", "max_range_excess_seconds", None, True),
        ("temporal_alignment", "max_range_excess_seconds", -0.1, False),
        ("temporal_alignment", "buffer_seconds", 0.0, True),
        ("accuracy", "number_relative_tolerance", 0.0, True),
        ("accuracy", "number_relative_tolerance", -0.001, False),
        ("format", "weight", -1.0, True),
        ("format", "weight", math.inf, False),
    ],
)
def test_the_least_value_itself_is_allowed(
    section: str, key: str, value: float | None, is_allowed: bool, config: VideoR2Config
) -> None:
    changed: Any = replace(getattr(config, section), **{key: value})
    checked = replace(config, **{section: changed})
    if is_allowed:
        check_config(checked)
    else:
        with pytest.raises(ValueError, match=rf"^reward\.{section}\.{key}: found {value}"):
            check_config(checked)


@pytest.mark.parametrize(("bound", "is_allowed"), [(-0.1, False), (0.0, True), (0.99, True), (1.0, False)])
def test_a_bound_lies_from_0_to_below_1(bound: float, is_allowed: bool, config: VideoR2Config) -> None:
    bounded = replace(config, only_above_accuracy={"format": bound})
    if is_allowed:
        check_config(bounded)
    else:
        with pytest.raises(ValueError, match=rf"only_above_accuracy\.format: found {bound}"):
            check_config(bounded)


def wholly(reading: Reading) -> float:
    return 1.0


def not_at_all(reading: Reading) -> int:
    return 0


def negative(reading: Reading) -> float:
    return -0.001


def test_a_term_may_say_0_and_1_and_nothing_beyond(
    here: str, config: VideoR2Config, toy_target: Target, by_words: Similarity
) -> None:
    values = {}
    for name in ("wholly", "not_at_all", "negative"):
        scored = score_response(RESPONSE, toy_target, with_term(config, f"{here}.{name}"), similarity=by_words)
        values[name] = (scored.terms["mine"].status, scored.terms["mine"].value)
    assert values == {"wholly": ("score", 1.0), "not_at_all": ("score", 0.0), "negative": ("failure", None)}


def test_a_failure_takes_the_reward_of_a_penalty_too(
    here: str, config: VideoR2Config, toy_target: Target, by_words: Similarity
) -> None:
    penalised = with_term(config, f"{here}.too_much", -0.5)
    assert score_response(RESPONSE, toy_target, penalised, similarity=by_words).reward is None


def test_an_empty_text_has_no_length_even_where_none_is_asked_for(config: VideoR2Config, toy_target: Target) -> None:
    values = [
        shaping.length(reading_of(text, config, toy_target), min_words=0, max_words=2, zero_words=3).value
        for text in ("", "one", "one two", "one two three")
    ]
    assert values == [0.0, 1.0, 1.0, 0.0]
