"""What the server answers, and to whom."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from viewed_runs import metrics_row, write_config, write_step

from videor2_rl.chat.server import PAGES
from videor2_rl.config.errors import ConfigError
from videor2_rl.run.place import PoolState, write_pools
from videor2_rl.training.ledger import StepEnds, append_step
from videor2_rl.view.run import RunFolder
from videor2_rl.view.security import is_loopback
from videor2_rl.view.server import STATIC, make_app

HERE = "http://localhost:8800"


@pytest.fixture
def client(viewed: Path) -> Iterator[TestClient]:
    with TestClient(make_app([RunFolder(viewed, "run")]), base_url=HERE) as client:
        yield client


def test_every_answer_forbids_what_is_not_ours(client: TestClient) -> None:
    for path in ("/", "/api/runs", "/static/app.js", "/nosuch", "/api/runs/0/groups/9/9"):
        headers = client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'self';")
        assert headers["x-content-type-options"] == "nosniff"


def test_nothing_of_the_pages_comes_from_elsewhere_and_it_is_small() -> None:
    folders = (STATIC, PAGES)
    ours = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    for file in ours:
        if file.suffix in (".js", ".css", ".html") and "vendor" not in file.parts:
            assert not re.findall(r"https?://(?!www\.w3\.org)", file.read_text()), file
    assert sum(file.stat().st_size for file in ours if file.suffix == ".js") <= 150_000


def test_another_name_for_this_machine_gets_nothing(viewed: Path) -> None:
    app = make_app([RunFolder(viewed, "run")])
    assert TestClient(app, base_url="http://evil.example").get("/api/runs").status_code == 403
    for address in ("http://127.0.0.1:1", "http://[::1]:1", "http://localhost"):
        assert TestClient(app, base_url=address).get("/api/runs").status_code == 200
    assert is_loopback("127.3.4.5") and not is_loopback("10.0.0.1") and not is_loopback("localhost.evil.example")


def test_a_token_is_asked_once_and_leaves_the_address(viewed: Path) -> None:
    client = TestClient(make_app([RunFolder(viewed, "run")], token="secret"), base_url="http://node7:8800")
    assert client.get("/api/runs").status_code == 401
    assert client.get("/api/runs?token=wrong").status_code == 401
    answer = client.get("/rollouts?token=secret&sort=oldest", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/rollouts?sort=oldest")
    assert "httponly" in answer.headers["set-cookie"].lower()
    assert client.get("/api/runs").status_code == 200


def test_groups_are_filtered_paged_and_refused_with_a_reason(client: TestClient) -> None:
    first = client.get("/api/runs/0/groups", params={"limit": 4, "sort": "oldest"}).json()
    after = ",".join(map(str, first["next"]))
    second = client.get("/api/runs/0/groups", params={"limit": 4, "sort": "oldest", "after": after}).json()
    assert [row["group_id"] for row in first["rows"] + second["rows"]] == [10, 11, 12, 13, 20, 21, 22, 23]
    assert client.get("/api/runs/0/groups?filter=failed").json()["total"] == 3
    for query in ("filter=nosuch", "sort=nosuch", "where=nosuch", "after=1,2", "after=a,b,c"):
        answer = client.get(f"/api/runs/0/groups?{query}")
        assert answer.status_code == 400 and answer.json()["detail"], query
    assert client.get("/api/runs/7").status_code == 404


def test_a_group_its_clip_in_ranges_and_its_frames(client: TestClient) -> None:
    path = "/api/runs/0/groups/1/10"
    group = client.get(path).json()
    assert (group["previous"], group["next"]) == (None, {"step": 1, "group_id": 11})
    assert len(client.get(f"{path}/clip").json()["times_s"]) == 160
    whole = client.get(f"{path}/clip/file").content
    part = client.get(f"{path}/clip/file", headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole[10:20])
    frame = client.get(f"{path}/frames/3")
    assert frame.headers["content-type"] == "image/png" and frame.content.startswith(b"\x89PNG")
    assert client.get(f"{path}/frames/99").status_code == 404


def test_a_clip_that_is_gone_or_outside_is_refused_with_a_reason(client: TestClient) -> None:
    for group_id, reason in ((40, "--media FOLDER"), (42, "outside the run's folders")):
        for part in ("clip", "clip/file", "frames/0"):
            answer = client.get(f"/api/runs/0/groups/4/{group_id}/{part}")
            assert answer.status_code == 404 and reason in answer.json()["detail"]


@pytest.fixture
def live(tmp_path: Path) -> Path:
    """A run that trains, with its ledger and its pools."""
    write_config(tmp_path, media_dir=tmp_path, num_steps=9)
    write_step(tmp_path, 1, [])
    row = {**metrics_row(2), "data/in_flight": 3}
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    append_step(tmp_path, 1, StepEnds([0, 1], {2: "missing"}, {}))
    append_step(tmp_path, 2, StepEnds([3], {}, {4: "all equal", 5: "all equal"}))
    write_pools(tmp_path, {"rollout": PoolState(2, {0: "serving", 1: "starting"}, "rollout.max_workers", 3)})
    return tmp_path


def test_a_live_runs_pools_and_the_ends_of_its_prompts_are_told(live: Path) -> None:
    client = TestClient(make_app([RunFolder(live, "run")]), base_url=HERE)
    shown = client.get("/api/runs/0").json()
    assert shown["ledger"] == {"trained": 3, "skipped": {"missing": 1}, "filtered": {"all equal": 2}, "in_flight": 3}
    [pool] = shown["pools"]
    assert (pool["name"], pool["size"], pool["workers"]) == ("rollout", 2, {"0": "serving", "1": "starting"})
    (live / "finished").touch()
    ended = client.get("/api/runs/0").json()
    assert ended["pools"] == [] and ended["ledger"]["in_flight"] is None


def test_a_run_is_told_sizes_only_under_control_and_only_from_our_page(live: Path) -> None:
    told: list[tuple[Path, Mapping[str, int]]] = []

    def scale(run_dir: Path, sizes: Mapping[str, int]) -> str:
        told.append((run_dir, dict(sizes)))
        if sizes["rollout"] > 3:
            raise ConfigError("the run allows at most 3")
        return "rollout: from 2 to 3"

    path, wanted = "/api/runs/0/scale", {"sizes": {"rollout": 3}}
    looking = TestClient(make_app([RunFolder(live, "run")]), base_url=HERE)
    assert looking.post(path, json=wanted).status_code == 404 and not looking.get("/api/runs/0").json()["may_scale"]
    client = TestClient(make_app([RunFolder(live, "run")], scale=scale), base_url=HERE)
    assert client.post(path, json=wanted, headers={"Origin": "http://evil.example"}).status_code == 403
    assert client.get(path).status_code == 405 and told == []
    assert client.post(path, json=wanted, headers={"Origin": HERE}).json() == {"said": "rollout: from 2 to 3"}
    assert told == [(live, {"rollout": 3})]
    refused = client.post(path, json={"sizes": {"rollout": 4}})
    assert (refused.status_code, refused.json()["detail"]) == (400, "the run allows at most 3")
    asked = TestClient(make_app([RunFolder(live, "run")], token="secret", scale=scale), base_url="http://node7:8800")
    assert asked.post(path, json=wanted).status_code == 401


def test_looking_at_runs_loads_no_ray_even_under_control(live: Path) -> None:
    text = (
        "import sys\nfrom pathlib import Path\nfrom videor2_rl.view.__main__ import scale_by_command\n"
        f"try: scale_by_command(Path({str(live)!r}), {{'rollout': 1}})\n"
        "except Exception as error: print(error)\nprint('ray' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{live}: no run trains here (control.json is not there)", "False"]


@pytest.mark.parametrize("path", ["/static/../server.py", "/static/%2e%2e/server.py", "/static/..%2fserver.py"])
def test_static_files_end_at_their_folder(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def program(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "videor2_rl.view", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_whoever_reads_the_rows_may_stop_when_there_are_enough(viewed: Path) -> None:
    many = "with recursive n(x) as (select 1 union all select x + 1 from n where x < 100000) select x from n"
    command = [sys.executable, "-m", "videor2_rl.view", str(viewed), "--sql", many]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert json.loads(process.stdout.readline()) == {"x": 1}
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_rows_and_sql_come_as_json_lines_and_mistakes_as_one_sentence(viewed: Path) -> None:
    found = program(str(viewed), "--json", "groups", "--where", "num_unpaid > 0")
    assert found.returncode == 0 and found.stdout.count('"group_id":') == 3
    counted = program(str(viewed), "--sql", "select count(*) as n from responses")
    assert counted.stdout == '{"n":60}\n'
    wrong = program(str(viewed), "--json", "groups", "--where", "nosuch = 1")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: --where: no such column: nosuch; columns are groups: step")
