"""`evaluate logs=DIR` against what the paper's own scripts made of the same logs and judge replies."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from videor2_rl.config.errors import ConfigError
from videor2_rl.config.judge import CallsConfig, JudgeConfig, OpenAIJudge, RulesJudge
from videor2_rl.config.runs import LogsRun
from videor2_rl.evaluation.log_run import run_logs

CASES = Path(__file__).parent / "official_cases"
RULES = RulesJudge("rules", "rules")
EXPECTED = json.loads((CASES / "expected.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluated")
    run_logs(logs_run(CASES / "logs", out))
    return out


def logs_run(logs: Path, out: Path, judge: JudgeConfig = RULES) -> LogsRun:
    return LogsRun(
        logs=str(logs),
        seed=0,
        output_dir=str(out),
        bootstrap_resamples=20,
        vas_prompt="default",
        mixer_alpha=0.7,
        mixer_gamma=2.0,
        judge=judge,
    )


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def without_place(summary: dict[str, Any]) -> dict[str, Any]:
    datasets = {
        name: {key: value for key, value in dataset.items() if key not in ("source_path", "mtime")}
        for name, dataset in summary["datasets"].items()
    }
    return {"overall": summary["overall"], "datasets": datasets}


@pytest.mark.parametrize("run", EXPECTED["summaries"])
def test_every_sample_and_summary_equals_the_official_script_s(run: str, evaluated: Path) -> None:
    assert read(evaluated / "official/tac" / run / "per_sample.json") == EXPECTED["per_sample"][run]
    assert read(evaluated / "official/tac" / run / "summary.json") == EXPECTED["summaries"][run]


def test_the_aggregate_equals_the_official_summariser_s(evaluated: Path) -> None:
    assert without_place(read(evaluated / "official/tac/summary.json")) == EXPECTED["tac"]


def test_vas_equals_the_official_script_s(evaluated: Path) -> None:
    assert read(evaluated / "official/vas/summary.json") == EXPECTED["vas"]
    for benchmark, samples in EXPECTED["vas_samples"].items():
        lines = (evaluated / f"official/vas/per_sample_{benchmark}.jsonl").read_text(encoding="utf-8").splitlines()
        assert [{key: row[key] for key in samples[0]} for row in map(json.loads, lines)] == samples


def test_the_summary_holds_both_and_one_reading_for_each_row(evaluated: Path) -> None:
    summary = read(evaluated / "summary.json")
    assert summary["official"]["tac"]["overall"] == EXPECTED["tac"]["overall"]
    assert summary["official"]["vas"] == EXPECTED["vas"]
    assert summary["official"]["read_by"] == {"judge": 440, "rules": 0}
    assert set(summary["benchmarks"]) == {run.split("/")[0] for run in EXPECTED["summaries"]}
    assert len((evaluated / "readings.jsonl").read_text(encoding="utf-8").splitlines()) == 440 == summary["num_samples"]
    blocks = summary["overall"]["tac"]["think_blocks"]
    assert sum(blocks.values()) == 440
    assert summary["overall"]["vas"]["num_scored"] + summary["overall"]["vas"]["num_failed"] == 440


class ScriptedJudge(BaseHTTPRequestHandler):
    """An OpenAI-compatible server that gives the replies stored in the rows, found by question and purpose."""

    rows: ClassVar[list[dict[str, Any]]] = []
    asked: ClassVar[Counter[str]] = Counter()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][-1]["content"]
        reply = {"choices": [{"index": 0, "message": {"role": "assistant", "content": self.reply(text)}}]}
        data = json.dumps({"id": "x", "object": "chat.completion", "created": 0, "model": "m", **reply}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def reply(self, text: str) -> str:
        row = next((row for row in self.rows if f'"question": "{row["doc"]["question"]}' in text), None)
        row = row or next((row for row in self.rows if row["doc"]["question"] in text), None)
        if row is None:
            return "ready"
        # The purposes differ in their material: only a score is asked for without options.
        if '"options"' in text:
            return str(row["judge"]["think" if '"reasoning"' in text else "answer"])
        self.asked[row["doc"]["question"]] += 1
        vas = row["judge"]["vas"]
        return str(vas if isinstance(vas, str) else vas[min(self.asked[row["doc"]["question"]], 2) - 1])

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def judge_url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), ScriptedJudge)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_judge_asked_over_http_gives_the_official_numbers_too(judge_url: str, tmp_path: Path) -> None:
    name = "minerva_think_samples_minerva_think.jsonl"
    rows = [json.loads(line) for line in (CASES / "logs" / name).read_text(encoding="utf-8").splitlines()]
    ScriptedJudge.rows, ScriptedJudge.asked = rows, Counter()
    (tmp_path / "logs").mkdir()
    bare = [{key: value for key, value in row.items() if key != "judge"} for row in rows]
    (tmp_path / "logs" / name).write_text("".join(json.dumps(row) + "\n" for row in bare))
    calls = CallsConfig(4, 20.0, 1, None, False, 64, 0, {}, None, 4, 0.1, 5.0, 1.0)
    judge = OpenAIJudge("openai", "judge", judge_url, "m", None, calls)
    run_logs(logs_run(tmp_path / "logs", tmp_path / "out", judge))
    run = "minerva/" + name.removesuffix(".jsonl")
    assert read(tmp_path / "out/official/tac" / run / "summary.json") == EXPECTED["summaries"][run]
    assert read(tmp_path / "out/official/vas/summary.json")["overall"] == {
        key: EXPECTED["vas"]["per_benchmark"]["minerva"][key] for key in ("n", "avg", "min", "max")
    }
    card = read(tmp_path / "out/summary.json")["card"]
    assert card["read_by"] == {"judge": 40, "rules": 0}
    assert card["judge"]["model"] == "m" and set(card["prompts"]) == {"conclusion", "answer", "vas"}


def test_sub_folders_are_searched_and_a_file_that_names_no_benchmark_is_known_by_its_rows(tmp_path: Path) -> None:
    name = "mlvu_dev_think_samples_mlvu_dev_think.jsonl"
    (tmp_path / "logs/model/run").mkdir(parents=True)
    shutil.copy(CASES / "logs" / name, tmp_path / "logs/model/run/samples.jsonl")
    out = tmp_path / "out"
    run_logs(logs_run(tmp_path / "logs", out))
    (summary,) = read(out / "summary.json")["official"]["tac"]["summaries"].values()
    assert summary == EXPECTED["summaries"]["mlvu/" + name.removesuffix(".jsonl")]


def test_without_replies_our_rules_read_and_the_summary_says_so(tmp_path: Path) -> None:
    row = {
        "doc_id": 0,
        "doc": {"question": "Which colour?", "candidates": ["red", "green"], "answer": "A"},
        "target": "A",
        "filtered_resps": ["<think>At 00:05 it is red. So the answer is red (A).</think><answer>A</answer>"],
        "mlvu_percetion_score": {"pred_answer": "A", "answer": "A"},
    }
    contradicting = {**row, "filtered_resps": ["<think>So the answer is green (B).</think><answer>A</answer>"]}
    (tmp_path / "samples_mlvu.jsonl").write_text(f"{json.dumps(row)}\n{json.dumps(contradicting)}\n")
    run_logs(logs_run(tmp_path, tmp_path / "out"))
    summary = read(tmp_path / "out/summary.json")
    tac = summary["benchmarks"]["mlvu"]["tac"]
    assert (tac["agreement"]["mean"], tac["consistency_accuracy"]["mean"], tac["same_answer_rate"]["mean"]) == (
        0.5,
        0.5,
        0.5,
    )
    assert summary["benchmarks"]["mlvu"]["vas"] is None
    assert summary["official"]["read_by"] == {"judge": 0, "rules": 2}
    assert summary["official"]["tac"]["datasets"]["mlvu"]["consistency_accuracy"] == 0.5


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("samples_mlvu.jsonl", '{"doc": 5}', ("line 1", "doc", "mend")),
        ("samples_mlvu.jsonl", "{", ("line 1", "is cut off")),
        ("samples_mmvu.jsonl", '{"doc": {"choices": {"A": "x"}, "answer": 3}}', ("line 1", "mmvu")),
        ("samples_other.jsonl", '{"doc": {}}', ("neither its name", "benchmark")),
        ("samples_mlvu.jsonl", '{"doc": {"candidates": ["a", "b"]}, "judge": {"think": 3}}', ("line 1", "judge")),
        ("predictions.jsonl", "{}", ("no samples_*.jsonl",)),
    ],
)
def test_a_log_that_cannot_be_read_ends_with_one_sentence(
    name: str, text: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as caught:
        run_logs(logs_run(tmp_path, tmp_path / "out"))
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_the_command_reads_logs_without_model_ray_or_torch(tmp_path: Path) -> None:
    program = (
        "import sys; sys.argv = ['evaluate', *sys.argv[1:]]\n"
        "from videor2_rl.evaluate import main\n"
        "main()\n"
        "loaded = {'ray', 'vllm', 'torch', 'transformers'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    (tmp_path / "logs").mkdir()
    shutil.copy(CASES / "logs/mlvu_dev_think_samples_mlvu_dev_think.jsonl", tmp_path / "logs")
    command = [sys.executable, "-c", program, f"logs={tmp_path / 'logs'}", f"output_dir={tmp_path / 'out'}"]
    result = subprocess.run([*command, "bootstrap_resamples=20"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out/summary.json").exists()


def test_rows_of_several_files_stay_with_their_file_and_files_of_one_benchmark_are_counted_together(
    tmp_path: Path,
) -> None:
    row: dict[str, Any] = {
        "doc": {"question": "Which?", "candidates": ["red", "green"], "answer": "A"},
        "target": "A",
        "filtered_resps": ["<think>So the answer is red (A).</think><answer>A</answer>"],
        "mlvu_percetion_score": {"pred_answer": "A", "answer": "A"},
    }
    wrong = {**row, "filtered_resps": ["<think>So the answer is green (B).</think><answer>B</answer>"]}
    half_judged = {**wrong, "judge": {"think": "B"}}
    own = {
        "doc": {"question": "Which? A. red B. green"},
        "target": "B",
        "resps": [["<think>So it is green (B).</think><answer>B</answer>"]],
        "filtered_resps": ["B"],
        "videor2_score": {},
        "input": "Which?",
        "judge": {"vas": '{"score": 3}'},
    }
    files = {"a/samples_mlvu_1.jsonl": [row, wrong], "b/samples_mlvu_2.jsonl": [half_judged], "c/samples.jsonl": [own]}
    for name, rows in files.items():
        (tmp_path / "logs" / name).parent.mkdir(parents=True)
        (tmp_path / "logs" / name).write_text("".join(json.dumps(each) + "\n" for each in rows))
    run_logs(replace(logs_run(tmp_path / "logs", tmp_path / "out"), seed=5))
    lines = [json.loads(line) for line in (tmp_path / "out/readings.jsonl").read_text().splitlines()]
    found = [(Path(line["file"]).name, line["row"], line["answer"]["answer"], line["answer_right"]) for line in lines]
    assert found == [
        ("samples_mlvu_1.jsonl", 0, "A", 1.0),
        ("samples_mlvu_1.jsonl", 1, "B", 0.0),
        ("samples_mlvu_2.jsonl", 0, "B", 0.0),
        ("samples.jsonl", 0, "B", 1.0),
    ]
    summary = read(tmp_path / "out/summary.json")
    assert (summary["num_samples"], summary["num_files"]) == (4, 3)
    assert (summary["interval"]["seed"], summary["card"]["seed"], summary["interval"]["resamples"]) == (5, 5, 20)
    counted = {name: section["num_samples"] for name, section in summary["benchmarks"].items()}
    assert counted == {"mlvu": 3, "videor2": 1}
    assert summary["benchmarks"]["mlvu"]["tac"]["answer_accuracy"]["mean"] == pytest.approx(1 / 3)
    assert summary["overall"]["tac"]["answer_accuracy"]["mean"] == 0.5
    # A judge has read a row when both of its blocks were read, and the paper has no files for rows of ours.
    assert summary["card"]["read_by"] == {"judge": 0, "rules": 4}
    assert list(summary["official"]["tac"]["summaries"]) == ["mlvu/samples_mlvu_1", "mlvu/samples_mlvu_2"]
    assert (summary["overall"]["vas"]["mean"], summary["official"]["vas"]["overall"]) == (3.0, {})
