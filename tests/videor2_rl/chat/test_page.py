"""The chat's page in Chromium: a clip is sent, the answer streams in, and its times lead the clip there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import uvicorn
from asked_clips import ANSWER, Written, tiny_session
from browsing import NEEDS_CHROMIUM, grave_faults, shown_number, until
from viewed_runs import numbered_clip

from videor2_rl.chat.server import make_chat
from videor2_rl.view.serving import opened_place

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.slow, NEEDS_CHROMIUM]
HOSTILE = "<think>At 00:01 <img src=x onerror=alert(1)></think><answer>A</answer>"


@pytest.fixture(scope="module")
def written() -> Written:
    return Written()


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    numbered_clip(folder / "clip.mp4", [number / 10 for number in range(120)])
    (folder / "text.mp4").write_text("no video")
    return folder


@pytest.fixture(scope="module")
def address(written: Written, media: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("chat")
    place = opened_place(host="127.0.0.1", port=0, token=None)
    app = make_chat(tiny_session(folder), written, name="tiny", folder=folder, media=[media], token=None)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [place.listener]})
    thread.start()
    yield place.address
    server.should_exit = True
    thread.join()


def ask(page: Page, media: Path) -> None:
    page.locator("input[type=file]").first.set_input_files(media / "clip.mp4")
    until(page, "document.querySelector('video')?.readyState >= 2")
    page.get_by_label("Question", exact=True).fill("Which first?")
    page.get_by_label("Options").fill("red\nblue")
    page.get_by_role("button", name="Ask").click()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_clip_is_sent_the_answer_streams_in_and_a_time_in_it_leads_the_clip_there(
    scheme: str, address: str, written: Written, media: Path, open_page: Callable[..., Page]
) -> None:
    written.text, written.pause_s = ANSWER, 0.1
    page = open_page(address, scheme=scheme)
    ask(page, media)
    until(page, "document.querySelector('.reply .text')?.textContent.length > 10")
    assert page.locator(".reply").inner_text().count("TAC") == 0
    until(page, "document.querySelector('.reply .terms') !== null")
    assert page.locator(".reply .text").inner_text() == ANSWER
    assert "the reasoning concludes A, the answer says A" in page.locator(".reply .terms").inner_text()
    assert page.locator(".strip li").count() == 12
    page.locator(".reply .text .time", has_text="00:09").click()
    assert shown_number(page) == 90
    assert page.locator(".clock").inner_text() == "00:09"
    assert page.locator(".reply .claims li").count() == 2
    assert not (found := grave_faults(page)), "\n".join(found)


def test_an_answer_is_stopped_and_what_a_model_wrote_is_text(
    address: str, written: Written, media: Path, open_page: Callable[..., Page]
) -> None:
    written.text, written.pause_s = HOSTILE + " and on" * 1000, 0.05
    page = open_page(address)
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    ask(page, media)
    until(page, "document.querySelector('.reply .text')?.textContent.includes('onerror')")
    assert page.locator(".reply img").count() == 0
    page.get_by_role("button", name="Stop").click()
    until(page, "!document.querySelector('[type=submit]').disabled")
    # The engine was told: it stands where it was.
    page.wait_for_timeout(500)
    taken = written.taken
    page.wait_for_timeout(500)
    assert 0 < written.taken == taken


def test_what_cannot_be_used_is_said_on_a_phone_too(address: str, media: Path, open_page: Callable[..., Page]) -> None:
    page = open_page(address, width=390, height=844)
    page.get_by_label("path below").fill("text.mp4")
    page.get_by_role("button", name="Open").click()
    until(page, "document.querySelector('.note.bad')?.textContent.includes('give a video file')")
    page.get_by_label("path below").fill("clip.mp4")
    page.get_by_role("button", name="Open").click()
    until(page, "document.querySelector('video')?.readyState >= 2")
    page.get_by_label("Question", exact=True).fill("word " * 400)
    page.get_by_role("button", name="Ask").click()
    until(page, "document.querySelector('.note.bad')?.textContent.includes('ask in fewer words')")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
