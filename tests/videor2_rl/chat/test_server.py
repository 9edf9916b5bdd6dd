"""What the chat's server takes, from whom, and what it answers; the engine is a written answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asked_clips import ANSWER, Written, tiny_session
from fastapi.testclient import TestClient
from viewed_runs import numbered_clip

from videor2_rl.chat import server
from videor2_rl.chat.server import make_chat
from videor2_rl.chat.session import Session

HERE = "http://localhost:8801"


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return tiny_session(tmp_path_factory.mktemp("server"))


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    numbered_clip(folder / "below" / "clip.mp4", [number / 10 for number in range(101)])
    (folder / "below" / "outside.mp4").symlink_to("/etc/hostname")
    (folder / "below" / "text.mp4").write_text("no video")
    return folder


@pytest.fixture
def written() -> Written:
    return Written()


@pytest.fixture
def client(session: Session, written: Written, media: Path, tmp_path: Path) -> Iterator[TestClient]:
    app = make_chat(session, written, name="tiny", folder=tmp_path, media=[media], token=None)
    with TestClient(app, base_url=HERE) as client:
        yield client


def named(client: TestClient) -> str:
    answer = client.post("/api/clips", json={"path": "below/clip.mp4"})
    assert answer.status_code == 200 and answer.json()["name"] == "clip.mp4"
    return str(answer.json()["clip"])


def told(client: TestClient, question: str) -> list[dict[str, Any]]:
    answer = client.post(f"/api/questions/{question}/answer")
    return [json.loads(part.removeprefix("data: ")) for part in answer.text.split("\n\n") if part]


def test_a_question_its_frames_and_its_answer_as_it_comes(client: TestClient, written: Written) -> None:
    question = {"clip": named(client), "text": "Which first?", "options": ["red", " ", "blue"]}
    asked = client.post("/api/questions", json=question).json()
    assert asked["frame_times_s"][0] == 0 and len(asked["frame_times_s"]) == 10
    frame = client.get(f"/api/questions/{asked['question']}/frames/3")
    assert frame.content.startswith(b"\x89PNG")
    assert client.get(f"/api/questions/{asked['question']}/frames/10").status_code == 404
    *parts, last = told(client, asked["question"])
    assert "".join(part["text"] for part in parts) == ANSWER and len(parts) > 5
    assert last["finish_reason"] == "stop" and last["num_tokens"] == len(parts)
    assert {term["label"]: term["value"] for term in last["reading"]["terms"]} == {"TAC": 1.0, "format": 1.0}
    assert written.asked[0].text == asked["prompt"] and "A. red\nB. blue" in asked["prompt"]


def test_a_clip_that_is_sent_plays_in_ranges_and_goes_when_it_is_no_longer_kept(
    client: TestClient, media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = (media / "below" / "clip.mp4").read_bytes()
    sent = client.put("/api/clips", params={"name": "../../my clip.MP4"}, content=data).json()
    assert sent["name"] == "../../my clip.MP4"
    assert [file.suffix for file in tmp_path.iterdir()] == [".mp4"]
    path = f"/api/clips/{sent['clip']}"
    assert len(client.get(path).json()["times_s"]) == 101
    part = client.get(f"{path}/file", headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, data[10:20])
    monkeypatch.setattr(server, "_KEPT", 1)
    client.put("/api/clips", params={"name": "b.mp4"}, content=data)
    assert len(list(tmp_path.iterdir())) == 1
    assert client.get(path).status_code == 404


@pytest.mark.parametrize("path", ["/etc/hostname", "below/outside.mp4", "../media0/below/none.mp4", "below", ""])
def test_only_files_below_the_media_folders_are_named(path: str, client: TestClient) -> None:
    answer = client.post("/api/clips", json={"path": path})
    assert answer.status_code == 400 and "is no file below the folders given with --media" in answer.json()["detail"]


def test_what_is_no_clip_is_refused_and_not_kept(client: TestClient, tmp_path: Path) -> None:
    for answer in (
        client.post("/api/clips", json={"path": "below/text.mp4"}),
        client.put("/api/clips", params={"name": "text.mp4"}, content=b"no video"),
    ):
        assert answer.status_code == 400
        assert answer.json()["detail"].startswith("text.mp4: ") and "give a video file" in answer.json()["detail"]
    empty = client.put("/api/clips", params={"name": "a.mp4"}, content=b"")
    assert empty.json()["detail"] == "a.mp4: is empty"
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_too_large_is_refused(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_CLIP_MIB", 0)
    answer = client.put("/api/clips", params={"name": "a.mp4"}, content=b"x" * 10)
    assert answer.status_code == 400 and "larger than 0 MiB" in answer.json()["detail"]
    assert list(tmp_path.iterdir()) == []


def test_a_question_that_does_not_fit_is_refused_before_the_engine(client: TestClient, written: Written) -> None:
    answer = client.post("/api/questions", json={"clip": named(client), "text": "word " * 400})
    assert answer.status_code == 400 and "ask in fewer words" in answer.json()["detail"]
    assert client.post("/api/questions", json={"clip": "nosuch", "text": "What?"}).status_code == 404
    assert written.asked == []


def test_an_engine_that_dies_is_told_in_the_answer(client: TestClient, written: Written) -> None:
    written.text, question = "", {"clip": named(client), "text": "What?"}
    asked = client.post("/api/questions", json=question).json()["question"]

    async def broken(prompt: Any, sampling: Any) -> Any:
        yield server_part
        raise RuntimeError("the engine process died")

    from videor2_rl.types import AnswerPart

    server_part = AnswerPart("At", 1, None)
    written.answer = broken  # type: ignore[method-assign]
    assert told(client, asked) == [{"text": "At"}, {"error": "The answer broke off: the engine process died"}]


def test_other_pages_and_other_machines_send_nothing(session: Session, written: Written, tmp_path: Path) -> None:
    app = make_chat(session, written, name="tiny", folder=tmp_path, media=[], token=None)
    client = TestClient(app, base_url=HERE)
    for origin in ("http://evil.example", "http://localhost:9", "null"):
        answer = client.put("/api/clips?name=a.mp4", content=b"x", headers={"Origin": origin})
        assert answer.status_code == 403, origin
    ours = client.put("/api/clips?name=a.mp4", content=b"x", headers={"Origin": HERE})
    assert ours.status_code == 400
    assert client.get("/").headers["content-security-policy"].startswith("default-src 'self';")
    asked = TestClient(make_chat(session, written, name="t", folder=tmp_path, media=[], token="secret"), base_url=HERE)
    assert asked.put("/api/clips?name=a.mp4", content=b"x").status_code == 401
