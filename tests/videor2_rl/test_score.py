"""`python -m videor2_rl.score` through its command line."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from fault_server import FaultServer, reply, status

from videor2_rl.score import main

ROOT = Path(__file__).parents[2]
CASES = ROOT / "tests" / "rewards" / "official" / "cases.jsonl"
RIGHT = "<think>At 00:05 a red square appears. So the answer is B.</think><answer>B</answer>"
ROW = {
    "id": "a",
    "response": RIGHT,
    "solution": "<answer>B</answer>",
    "question": "Which? A. red B. blue",
    "temporal_grounding": {"00:05": "A red square appears."},
    "similarity": {"A red square appears.": {"A red square appears.": 1.0}},
}


def score(*arguments: str) -> subprocess.CompletedProcess[str]:
    """In this process, which has loaded everything once."""
    before, sys.argv = sys.argv, ["score", *arguments]
    code, said, complained = 0, io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(said), redirect_stderr(complained):
            main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    finally:
        sys.argv = before
    return subprocess.CompletedProcess(["score", *arguments], code, said.getvalue(), complained.getvalue())


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def results(path: Path) -> list[dict[str, Any]]:
    # Not splitlines: it would also cut at U+2028, which some of the cases hold.
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def test_a_row_becomes_its_reward_and_what_led_to_it(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out.jsonl"
    done = score(write(tmp_path / "in.jsonl", [ROW, {"id": 2, "response": "", "solution": "B"}]), str(out))
    assert done.returncode == 0, done.stderr
    first, second = results(out)
    assert (first["id"], first["reward"]) == ("a", 3.0)
    assert first["terms"]["accuracy"] == {
        "verdict": "score",
        "value": 1.0,
        "type": "choice",
        "answer": "B",
        "reference": "B",
    }
    alignment = first["terms"]["temporal_alignment"]
    assert (alignment["verdict"], alignment["value"], alignment["pairs"]) == ("score", 1.0, [[0, 0, 1.0]])
    assert [claim["text"] for claim in alignment["claims"]] == ["A red square appears."]
    assert [(event["start_s"], event["text"]) for event in alignment["references"]] == [(5.0, "A red square appears.")]
    assert (second["id"], second["reward"]) == (2, 0.0)
    assert second["terms"]["temporal_alignment"]["verdict"] == "abstention"
    assert "2 rows, mean reward 1.5000" in done.stdout
    assert "temporal_alignment: mean 1.0000 of 1 scored, 1 abstained" in done.stdout
    assert not list(out.parent.glob("*.part"))


def test_neither_torch_nor_ray_is_loaded_without_missing_similarities(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [ROW])
    program = (
        "import sys\n"
        f"sys.argv = ['score', {source!r}, {str(tmp_path / 'out.jsonl')!r}]\n"
        "from videor2_rl.score import main\n"
        "main()\n"
        "print(sorted({'torch', 'ray', 'transformers', 'sentence_transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[]"


def test_every_case_of_the_papers_code_is_paid_alike(tmp_path: Path) -> None:
    cases = [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]
    settings = sorted({(case["buffer_seconds"], case["similarity_threshold"]) for case in cases})
    num_compared = 0
    # The commonest settings; the others are compared in tests/rewards/official.
    for buffer_seconds, threshold in [pair for pair in settings if pair in ((2, 0.75), (5, 0.75), (2, 0.6))]:
        chosen = [
            case
            for case in cases
            if (case["buffer_seconds"], case["similarity_threshold"]) == (buffer_seconds, threshold)
        ]
        out = tmp_path / "out.jsonl"
        done = score(
            write(tmp_path / "in.jsonl", [case["row"] for case in chosen]),
            str(out),
            "reward=video_r2_official",
            f"reward.temporal_alignment.buffer_seconds={buffer_seconds}",
            f"reward.temporal_alignment.similarity_threshold={threshold}",
        )
        assert done.returncode == 0, done.stderr
        for case, result in zip(chosen, results(out), strict=True):
            terms, expected = result["terms"], case["expected"]
            assert result["id"] == case["row"]["id"]
            assert result["reward"] == expected["reward"], result["id"]
            assert terms["accuracy"]["type"] == expected["type"]
            for name in ("format", "accuracy", "temporal_alignment", "consistency"):
                assert terms[name]["value"] == expected[name], (result["id"], name)
        num_compared += len(chosen)
    assert num_compared >= 200


def test_bad_rows_are_named_and_the_others_scored(tmp_path: Path) -> None:
    rows = [ROW, {**ROW, "response": 3}, {**ROW, "id": "c"}, {**ROW, "solution": ""}, {**ROW, "problem_type": "poem"}]
    source, out = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    done = score(source, str(out))
    assert done.returncode == 2
    assert [result["id"] for result in results(out)] == ["a", "c"]
    assert "3 rows could not be scored, all others are written" in done.stderr
    assert f"{source}, row 2: response is 3, expected a text; mend it" in done.stderr
    assert f"{source}, row 4: The solution '' holds no answer; give one" in done.stderr
    assert f"{source}, row 5: The problem_type 'poem' is unknown; use one of" in done.stderr
    assert "Traceback" not in done.stderr


def test_many_bad_rows_are_counted_beyond_the_first_twenty(tmp_path: Path) -> None:
    done = score(write(tmp_path / "in.jsonl", [{}] * 25), str(tmp_path / "out.jsonl"))
    assert done.returncode == 2
    assert "25 rows could not be scored" in done.stderr and "and 5 more" in done.stderr


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("reward=unknown", "unknown"),
        ("reward.temporal_alignment.bufer_seconds=1", "did you mean reward.temporal_alignment.buffer_seconds?"),
        ("reward.temporal_alignment.buffer_seconds=far", "reward.temporal_alignment.buffer_seconds: found 'far'"),
    ],
)
def test_a_wrong_override_is_one_sentence(override: str, message: str, tmp_path: Path) -> None:
    done = score(write(tmp_path / "in.jsonl", [ROW]), str(tmp_path / "out.jsonl"), "reward=video_r2", override)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out.jsonl").exists()


def test_the_input_is_never_overwritten(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [ROW])
    done = score(source, source)
    assert done.returncode == 2 and "is the input too" in done.stderr
    assert results(tmp_path / "in.jsonl") == [ROW]


def test_a_place_that_cannot_be_written_to_is_one_sentence(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [ROW] * 3)
    (tmp_path / "file").touch()
    (tmp_path / "full.jsonl.part").symlink_to("/dev/full")
    for out, reason in (
        (tmp_path / "file" / "out.jsonl", f"cannot write to {tmp_path}/file/out.jsonl ({tmp_path}/file is a file)"),
        (Path("/proc/out.jsonl"), "cannot write to /proc/out.jsonl (No such file or directory)"),
        (tmp_path / "full.jsonl", f"cannot write to {tmp_path}/full.jsonl (No space left on device); make room there"),
        (tmp_path, f"{tmp_path} is a folder; give a file for the results"),
    ):
        done = score(source, str(out))
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: OUT: {reason}") and len(done.stderr.splitlines()) == 1


def test_overrides_change_what_is_paid(tmp_path: Path) -> None:
    row = {**ROW, "temporal_grounding": {"00:09": "A red square appears."}}
    source, out = write(tmp_path / "in.jsonl", [row]), tmp_path / "out.jsonl"
    paid = []
    for overrides in ([], ["reward.temporal_alignment.buffer_seconds=4"], ["reward=video_r2_official"]):
        assert score(source, str(out), *overrides).returncode == 0
        paid.append(results(out)[0]["reward"])
    assert paid == [2.0, 3.0, 3.0]


def test_a_missing_judge_reply_is_a_failure_and_pays_nothing_at_all(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [ROW, {**ROW, "judge": {"consistency": "NOT TRUE"}}])
    out = tmp_path / "out.jsonl"
    assert score(source, str(out), "reward.consistency.reader=judge").returncode == 0
    unasked, denied = results(out)
    assert unasked["reward"] is None and unasked["terms"]["temporal_alignment"]["verdict"] == "failure"
    assert denied["reward"] == 2.0 and denied["terms"]["consistency"]["value"] == 0.0


@pytest.mark.slow
def test_pairs_that_are_left_out_come_from_the_encoder(tmp_path: Path) -> None:
    rows = [{key: value for key, value in ROW.items() if key != "similarity"}, {**ROW, "similarity": {}}]
    out = tmp_path / "out.jsonl"
    assert score(write(tmp_path / "in.jsonl", rows), str(out)).returncode == 0
    for result in results(out):
        [[_, _, cosine]] = result["terms"]["temporal_alignment"]["pairs"]
        assert cosine == pytest.approx(1.0, abs=1e-5)


def test_a_runs_rollouts_are_scored_again_beside_what_they_were_paid(tmp_path: Path) -> None:
    rollouts = tmp_path / "run" / "rollouts"
    rollouts.mkdir(parents=True)
    record = {
        "group_id": 0,
        "sample_id": "clip-1",
        "question": ROW["question"],
        "target": "<answer>B</answer>",
        "options": ["red", "blue"],
        "problem_type": None,
        "temporal_grounding": None,
        "responses": [{"text": RIGHT, "reward": 2.5}, {"text": RIGHT.replace("B<", "A<"), "reward": 0.5}],
    }
    for step in (1, 2):
        write(rollouts / f"step_{step:06}.jsonl", [record])
    out = tmp_path / "out.jsonl"
    done = score(str(tmp_path / "run"), str(out))
    assert done.returncode == 0, done.stderr
    again = results(out)
    assert [result["id"] for result in again] == [f"step_00000{step}/0/{place}" for step in (1, 2) for place in (0, 1)]
    assert [(result["reward"], result["logged_reward"]) for result in again[:2]] == [(2.0, 2.5), (1.0, 0.5)]
    assert again[0]["sample_id"] == "clip-1"
    assert "mean reward 1.5000, logged by the run 1.5000" in done.stdout


def test_a_value_that_json_cannot_hold_becomes_null(tmp_path: Path) -> None:
    row = {**ROW, "response": RIGHT + "\ud800", "similarity": {"A red square appears.": {"A red square appears.": 2}}}
    text = json.dumps(row).replace(": 2}", ": NaN}")
    (tmp_path / "in.jsonl").write_text(text)
    out = tmp_path / "out.jsonl"
    assert score(str(tmp_path / "in.jsonl"), str(out), "reward=video_r2_official").returncode == 0
    [result] = results(out)
    assert result["terms"]["temporal_alignment"]["value"] == 0.0
    assert result["terms"]["temporal_alignment"]["claims"][0]["similarity"] is None


def judge_arguments(server: FaultServer) -> list[str]:
    return ["judge=openai", f"judge.base_url={server.base_url}", "judge.model=m", "judge.calls.cache_dir=null"]


def test_a_judge_is_asked_for_what_the_rows_do_not_carry(tmp_path: Path) -> None:
    said = '{"reason": "r", "consistent": false}'
    rows = [
        {**ROW, "id": "asked", "claims": {"00:05": "A red square appears."}},
        {**ROW, "id": "known", "claims": {"00:05": "A red square appears."}, "judge": {"consistency": "TRUE"}},
        {**ROW, "id": "lost", "claims": {}, "response": f"{RIGHT} ", "judge": {"consistency": None}},
    ]
    out = tmp_path / "out.jsonl"
    with FaultServer(lambda *_: reply(said)) as server:
        done = score(write(tmp_path / "in.jsonl", rows), str(out), *judge_arguments(server))
        assert done.returncode == 0, done.stderr
        # The rows "asked" and "lost" put the same question.
        assert len(server.prompts) == 1
    by_id = {result["id"]: result for result in results(out)}
    assert {name: result["terms"]["consistency"]["value"] for name, result in by_id.items()} == {
        "asked": 0.0,
        "known": 1.0,
        "lost": 0.0,
    }
    assert by_id["asked"]["judge"] == {"consistency": said}


def test_a_judge_that_does_not_answer_is_named_before_anything_is_scored(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with FaultServer(lambda *_: status(404, message="no such model")) as server:
        done = score(write(tmp_path / "in.jsonl", [ROW]), str(out), *judge_arguments(server))
        address = server.base_url
    assert done.returncode == 2
    assert address in done.stderr and "no such model" in done.stderr and "judge.model" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not out.exists()


def test_a_key_that_is_not_set_is_named(tmp_path: Path) -> None:
    arguments = [
        "judge=openai",
        "judge.base_url=http://127.0.0.1:9/v1",
        "judge.model=m",
        "judge.api_key_env=NO_SUCH_KEY",
    ]
    done = score(write(tmp_path / "in.jsonl", [ROW]), str(tmp_path / "out.jsonl"), *arguments)
    assert done.returncode == 2 and "NO_SUCH_KEY" in done.stderr


BRIEF = "defaults: [video_r2, _self_]\nextra:\n  mine:\n    function: {folder}/own.py:mine\n    weight: 1.0\n"
OWN = """\
def mine(reading):
    context = reading.context
    if context.extra["rating"] > 1:
        return context.extra["rating"] / 0
    return context.extra["rating"] / (1 + len(context.siblings))
"""


def own_reward(tmp_path: Path) -> list[str]:
    """The arguments that choose a reward with a term of one's own."""
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "conf" / "reward").mkdir(parents=True)
    (tmp_path / "conf" / "reward" / "brief.yaml").write_text(BRIEF.format(folder=tmp_path))
    return ["--config-dir", str(tmp_path / "conf"), "reward=brief"]


def test_an_own_term_is_found_by_config_dir_and_gets_the_rows_columns(tmp_path: Path) -> None:
    chosen, out = own_reward(tmp_path), tmp_path / "out.jsonl"
    source = write(tmp_path / "in.jsonl", [{**ROW, "rating": 0.5}, {**ROW, "rating": 2}])
    done = score(source, str(out), *chosen)
    assert done.returncode == 0, done.stderr
    first, second = results(out)
    assert (first["reward"], first["terms"]["mine"]) == (3.5, {"verdict": "score", "value": 0.5})
    assert second["reward"] is None
    assert (
        second["terms"]["mine"]["reason"] == f"mine: ZeroDivisionError: division by zero ({tmp_path}/own.py:4, in mine)"
    )
    assert (
        "mine: mean 0.5000 of 1 scored, 1 failed, the first: mine: ZeroDivisionError: division by zero" in done.stdout
    )
    # In any order, as options go.
    assert score(*chosen[:2], source, str(out), chosen[2]).returncode == 0
    missing = score(source, str(out), "--config-dir", str(tmp_path / "none"))
    assert missing.returncode == 2 and missing.stderr.startswith("error: --config-dir: there is no folder")


def test_a_runs_rollouts_are_scored_by_the_runs_own_reward_and_an_override_is_all_that_changes(tmp_path: Path) -> None:
    from videor2_rl.run.folder import write_config
    from videor2_rl.scoring.presets import score_run

    run_dir = tmp_path / "run"
    (run_dir / "rollouts").mkdir(parents=True)
    [_, folder, preset] = own_reward(tmp_path)
    overrides = [preset, "reward.format.weight=0.5", "reward.temporal_alignment.buffer_seconds=4"]
    write_config(run_dir, score_run(overrides, config_dir=Path(folder)))
    record = {
        "group_id": 0,
        "sample_id": "clip-1",
        "question": ROW["question"],
        "target": "<answer>B</answer>",
        "options": [],
        "problem_type": None,
        "temporal_grounding": None,
        "extra": {"rating": 0.5},
        "responses": [{"text": RIGHT, "reward": 1.75}, {"text": RIGHT.replace("B<", "A<"), "reward": 0.75}],
    }
    write(run_dir / "rollouts" / "step_000001.jsonl", [record])
    out = tmp_path / "out.jsonl"

    def paid(*arguments: str, source: Path = run_dir) -> tuple[list[float], str]:
        done = score(str(source), str(out), *arguments)
        assert done.returncode == 0, done.stderr
        return [result["reward"] for result in results(out)], done.stderr.splitlines()[0]

    own = f"scored from the reward of {run_dir / 'config.yaml'}"
    assert paid() == ([1.75, 0.75], own)
    assert paid(source=run_dir / "rollouts" / "step_000001.jsonl") == ([1.75, 0.75], own)
    assert paid("reward.format.weight=1") == ([2.25, 1.25], f"{own}, changed by reward.format.weight=1")
    assert paid("~reward.extra.mine")[0] == [1.5, 0.5]
    assert paid("reward=no_tar") == ([2.0, 1.0], "scored from reward=no_tar")
    wrong = score(str(run_dir), str(out), "reward.temporal_alignment.bufer_seconds=1")
    assert wrong.returncode == 2 and "did you mean reward.temporal_alignment.buffer_seconds?" in wrong.stderr
    (run_dir / "config.yaml").write_text("seed: 0\n")
    broken = score(str(run_dir), str(out))
    assert broken.returncode == 2 and "config.yaml holds no reward; name a preset with reward=NAME" in broken.stderr
    (run_dir / "config.yaml").unlink()
    assert paid() == ([2.0, 1.0], "scored from reward=video_r2, since no config.yaml stands beside the log")


def test_a_missing_argument_is_named_alone() -> None:
    done = score("in.jsonl")
    assert done.returncode == 2
    see = "see python -m videor2_rl.score --help"
    assert done.stderr == f"error: the following arguments are required: OUT; {see}\n"
