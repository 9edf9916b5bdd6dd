"""The pages in Chromium: what a user does, and what is on the screen then."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from browsing import NEEDS_CHROMIUM, grave_faults, shown_number, until
from viewed_runs import append_metrics, make_record, numbered_clip, write_config, write_step

from videor2_rl.demo.clips import encode, frame_times, render
from videor2_rl.demo.events import make_events
from videor2_rl.run.place import PoolState, write_pools
from videor2_rl.training.ledger import StepEnds, append_step

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.slow, NEEDS_CHROMIUM]
EVEN = [number / 30 for number in range(120)]
UNEVEN = np.cumsum([0, *([0.033, 0.1, 0.04, 0.25, 0.05] * 12)]).round(3).tolist()
SCREENSHOTS = os.environ.get("SCREENSHOTS")
"""A folder: the pages that the README shows are written there."""


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[..., str]]:
    """serve(folder, ...) -> the address of a viewer of its own process."""
    running: list[subprocess.Popen[str]] = []

    def start(*arguments: Path | str) -> str:
        command = [sys.executable, "-m", "videor2_rl.view", *map(str, arguments), "--port", "0"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdout is not None
        return next(word for word in process.stdout.readline().split() if word.startswith("http")).rstrip("/")

    yield start
    for process in running:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture(scope="module")
def address(viewed: Path, serve: Callable[..., str]) -> str:
    return serve(viewed)


@pytest.fixture(scope="module")
def clips_address(clips: Path, serve: Callable[..., str]) -> str:
    return serve(clips)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose groups have clips of every sort, each picture with its number."""
    folder = tmp_path_factory.mktemp("clips") / "run"
    media = folder / "media"
    whole = numbered_clip(media / "even.mp4", EVEN, g="30", bf="2")
    files = [
        whole,
        numbered_clip(media / "uneven.mp4", UNEVEN, g="250"),
        edited(whole, media / "edited.mp4", by_s=1.5),
        numbered_clip(media / "hevc.mkv", UNEVEN, codec="libx265"),
        numbered_clip(media / "uneven.webm", UNEVEN, codec="libvpx"),
    ]
    write_config(folder, media_dir=media, num_steps=1)
    write_step(folder, 1, [make_record(n, seed=n, size=2, video=str(file)) for n, file in enumerate(files)])
    return folder


def edited(source: Path, target: Path, *, by_s: float) -> Path:
    """The packets of a file, moved so that its edit list hides what was before."""
    import av

    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.size and packet.pts is not None and packet.dts is not None:
                shift = round(by_s / packet.time_base)
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = stream
                new.mux(packet)
    return target


def group_address(address: str, *, step: int, group: int, **more: Any) -> str:
    return f"{address}/group?step={step}&group={group}" + "".join(f"&{key}={value}" for key, value in more.items())


@pytest.mark.parametrize(
    ("group", "times", "first"),
    [
        (0, EVEN, 0),
        (1, UNEVEN, 0),
        (2, [time - 1.5 for time in EVEN if time >= 1.5], 45),
        (3, UNEVEN, 0),
        (4, UNEVEN, 0),
    ],
    ids=["constant rate", "variable rate", "edit list", "HEVC in Matroska", "WebM"],
)
def test_a_second_shows_its_own_picture(
    group: int, times: list[float], first: int, clips_address: str, open_page: Callable[..., Page]
) -> None:
    page = open_page(group_address(clips_address, step=1, group=group, t=0))
    page.wait_for_selector("video", timeout=60_000)
    until(page, "document.querySelector('video').readyState >= 2")
    lane = page.locator(".lane.events .track")
    width = lane.bounding_box()["width"]  # type: ignore[index]
    for share in (0.02, 0.07, 0.11, 0.155, 0.2, 0.05):
        lane.click(position={"x": share * width, "y": 22}, force=True)
        second = 15.5 * share * round(width) / width
        expected = max(place for place, time in enumerate(times) if time <= second + 1e-4)
        # Which pixel was clicked is known to a twentieth of a second.
        assert abs(shown_number(page) - first - expected) <= 1 or times[expected] > second - 0.05
    for place in (0, 7, 8, 20, len(times) - 1):
        page.goto(group_address(clips_address, step=1, group=group, t=times[place] + 2e-3))
        until(page, "document.querySelector('video')?.readyState >= 2")
        assert shown_number(page) == first + place


def test_the_run_page_shows_curves_figures_and_what_is_worth_a_look(
    address: str, open_page: Callable[..., Page]
) -> None:
    page = open_page(address)
    assert page.locator("figure.chart canvas").count() >= 10
    assert "from" in page.locator(".tile").first.inner_text()
    page.locator(".advice a", has_text="without a reward").click()
    page.wait_for_selector("a.group")
    assert page.locator("a.group").count() == 3
    assert page.locator('.chip[aria-pressed="true"]').inner_text().startswith("No reward")


def test_a_click_on_a_curve_opens_the_step(address: str, open_page: Callable[..., Page]) -> None:
    page = open_page(address)
    page.locator(".u-over").first.click(position={"x": 2, "y": 40})
    page.wait_for_selector("a.group")
    assert page.locator("a.group .step").all_inner_texts() == ["step 1"] * 4


def test_filters_text_and_order_find_groups(address: str, open_page: Callable[..., Page]) -> None:
    page = open_page(f"{address}/rollouts")
    assert page.locator(".total").inner_text() == "15 groups"
    page.get_by_role("button", name="No reward: failure").click()
    until(page, "document.querySelector('.total').textContent === '3 groups'")
    assert "filter=failed" in page.url
    page.go_back()
    until(page, "document.querySelector('.total').textContent === '15 groups'")
    page.get_by_placeholder("in responses").fill("<script>")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('.total').textContent === '1 group'")
    page.goto(f"{address}/rollouts?where=nosuch")
    page.wait_for_selector(".note.bad, main h1")
    assert "no such column: nosuch" in page.locator("main").inner_text()


def test_a_time_in_the_text_leads_the_clip_there(address: str, open_page: Callable[..., Page]) -> None:
    page = open_page(group_address(address, step=1, group=10))
    until(page, "document.querySelector('video')?.readyState >= 2")
    times = page.locator(".response .text .time")
    for place in range(min(3, times.count())):
        minutes, seconds = times.nth(place).inner_text().split(":")
        times.nth(place).click()
        second = 60 * int(minutes) + int(seconds)
        if second <= 15:
            assert shown_number(page) == 10 * second
            assert page.locator(".clock").inner_text() == f"00:{second:02d}"
            assert page.locator(".strip [aria-current]").inner_text() == f"00:{second:02d}"
            assert f"00:{second:02d}" in page.locator(".seen figcaption").inner_text()


def test_tokens_are_coloured_by_what_is_known_of_them(address: str, open_page: Callable[..., Page]) -> None:
    page = open_page(group_address(address, step=1, group=12))
    strength = "getComputedStyle(document.querySelector('.tokens span:nth-child({})')).getPropertyValue('--strength')"

    def by(label: str) -> tuple[str, str]:
        page.get_by_label(label).check()
        first, second = (str(page.evaluate(strength.format(place))) for place in (1, 2))
        return first, second

    assert by("gap to the learner, at most 0.33") == ("100%", "100%")
    assert by("entropy") == ("75%", "0%")
    assert "the learner's +0.33; entropy 1.500" in str(page.locator(".tokens span").first.get_attribute("title"))
    # A group that was not trained on has neither.
    page = open_page(group_address(address, step=1, group=10))
    labels = page.locator(".colours label").all_inner_texts()
    assert [label.strip() for label in labels] == ["claims", "surprise of each token", "advantage"]


def test_the_pictures_that_the_model_saw_are_there(address: str, open_page: Callable[..., Page]) -> None:
    page = open_page(group_address(address, step=1, group=10))
    until(page, "document.querySelector('.strip img')?.naturalWidth === 28")
    assert page.locator(".strip li").count() == 16


def test_what_a_model_wrote_is_text(address: str, open_page: Callable[..., Page]) -> None:
    page = open_page(group_address(address, step=4, group=41))
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    assert "<script>alert(2)</script>" in page.locator(".responses").inner_text()
    assert page.locator(".responses img, .responses script").count() == 0


def test_a_clip_that_is_gone_says_so_and_the_rest_is_there(address: str, open_page: Callable[..., Page]) -> None:
    page = open_page(group_address(address, step=4, group=40))
    page.wait_for_selector(".screen .note")
    assert "--media FOLDER" in page.locator(".screen .note").inner_text()
    assert page.locator("article.response").count() == 4
    assert page.locator(".mark").count() > 4


def test_runs_over_each_other_and_side_by_side(
    viewed: Path, tmp_path: Path, serve: Callable[..., str], open_page: Callable[..., Page]
) -> None:
    other = tmp_path / "other"
    write_config(other, media_dir=tmp_path, num_steps=9, seed=1)
    for step in (1, 2, 3):
        write_step(other, step, [make_record(step, seed=step + 50, size=4, video="a.mp4")])
    page = open_page(serve(viewed, other))
    assert page.locator(".chart").first.locator(".legend li").count() == 3
    page.locator(".chooser input").nth(1).uncheck()
    until(page, "document.querySelector('.chart .legend')?.children.length === 2")
    page.get_by_role("link", name="Compare").first.click()
    page.wait_for_selector("table.numbers caption")
    text = page.locator("main").inner_text()
    assert "Against run" in text and "seed" in text
    assert not (found := grave_faults(page)), "\n".join(found)


def test_a_live_run_grows(tmp_path: Path, serve: Callable[..., str], open_page: Callable[..., Page]) -> None:
    write_config(tmp_path / "live", media_dir=tmp_path, num_steps=5)
    write_step(tmp_path / "live", 1, [make_record(1, seed=1, size=2, video="a.mp4")])
    page = open_page(serve(tmp_path / "live"))
    until(page, "document.querySelector('.chart .legend').textContent.includes('step 1')")
    write_step(tmp_path / "live", 2, [make_record(2, seed=2, size=2, video="a.mp4")])
    until(page, "document.querySelector('.chart .legend').textContent.includes('step 2')")
    page.get_by_role("link", name="Rollouts").click()
    page.wait_for_selector("a.group")
    # The stream of events has to be there before what it tells of.
    page.wait_for_timeout(1500)
    write_step(tmp_path / "live", 3, [make_record(3, seed=3, size=2, video="a.mp4")])
    write_step(tmp_path / "live", 4, [make_record(4, seed=4, size=2, video="a.mp4")], index=False)
    page.get_by_role("button", name="2 new steps: show").click()
    until(page, "document.querySelectorAll('a.group').length === 4")
    assert page.locator("a.group").first.inner_text().startswith("step 4")


def test_the_workers_of_a_live_run_and_a_wish_that_it_cannot_take(
    tmp_path: Path, serve: Callable[..., str], open_page: Callable[..., Page]
) -> None:
    write_config(tmp_path, media_dir=tmp_path, num_steps=5)
    write_step(tmp_path, 1, [make_record(1, seed=1, size=2, video="a.mp4")])
    append_step(tmp_path, 1, StepEnds([0, 1], {2: "missing"}, {}))
    write_pools(tmp_path, {"rollout": PoolState(1, {0: "standing by"}, "rollout.max_workers", 2)})
    page = open_page(serve(tmp_path, "--control") + "/workers")
    assert page.get_by_role("button", name="rollout: one worker fewer").is_disabled()
    assert "issued\t3" in page.locator("main").inner_text()
    assert not (found := grave_faults(page)), "\n".join(found)
    write_pools(tmp_path, {"rollout": PoolState(1, {0: "serving"}, "rollout.max_workers", 2)})
    until(page, "document.querySelector('.worker').textContent === '0 serving'")
    page.get_by_role("button", name="rollout: one worker more").click()
    until(page, "document.querySelector('.note.bad')?.textContent.includes('no run trains here')")


def test_everything_goes_without_a_mouse(address: str, open_page: Callable[..., Page]) -> None:
    page = open_page(f"{address}/rollouts?sort=oldest")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('video')?.readyState >= 2")
    page.keyboard.press(".")
    before = page.locator(".clock").inner_text()
    page.keyboard.press(".")
    until(page, f"document.querySelector('.clock').textContent !== '{before}'")
    number = shown_number(page)
    page.keyboard.press("ArrowRight")
    until(page, "!document.querySelector('video').seeking")
    assert shown_number(page) == number + 1
    chosen = page.locator(".response.chosen").get_attribute("id")
    page.keyboard.press("j")
    assert page.locator(".response.chosen").get_attribute("id") != chosen
    page.keyboard.press("]")
    page.wait_for_url("**group=11*")


@pytest.mark.parametrize("path", ["/", "/rollouts", "/group?step=1&group=10", "/workers"])
def test_a_phone_scrolls_in_one_direction_only(path: str, address: str, open_page: Callable[..., Page]) -> None:
    page = open_page(address + path, width=390, height=844)
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(scheme: str, address: str, open_page: Callable[..., Page]) -> None:
    for path in ("/", "/rollouts", "/group?step=1&group=10", "/workers"):
        page = open_page(address + path, scheme=scheme)
        page.wait_for_load_state("load")
        assert not (found := grave_faults(page)), path + "\n".join(found)


@pytest.mark.skipif(SCREENSHOTS is None, reason="no SCREENSHOTS=FOLDER to write the README's pictures into")
def test_the_pages_as_the_readme_shows_them(
    tmp_path: Path, serve: Callable[..., str], open_page: Callable[..., Page]
) -> None:
    assert SCREENSHOTS is not None
    run = os.environ.get("SCREENSHOTS_RUN")
    folder = Path(run) if run else demo_like(tmp_path / "run")
    address = serve(folder)
    for name, path, scheme in (
        ("view_group", os.environ.get("SCREENSHOTS_GROUP", "/group?step=2&group=8"), "light"),
        ("view_run", "/", "light"),
        ("view_rollouts", "/rollouts?sort=spread", "dark"),
    ):
        page = open_page(address + path, width=1360, height=860, scheme=scheme)
        page.wait_for_load_state("load")
        page.wait_for_timeout(1500)
        page.screenshot(path=Path(SCREENSHOTS) / f"{name}.png")


def demo_like(folder: Path) -> Path:
    """Clips of the demo, with what is said about them."""
    write_config(folder, media_dir=folder / "media", num_steps=4)
    (folder / "media").mkdir()
    for step in range(1, 5):
        records = []
        for number in range(4 * step, 4 * step + 4):
            clip = folder / "media" / f"{number:05d}.mp4"
            events = make_events(np.random.default_rng(number))
            times_s = frame_times(variable=False)
            encode(clip, render(events, times_s, rng=np.random.default_rng(number)), times_s=times_s)
            records.append(make_record(number, seed=number, video=str(clip)))
        write_step(folder, step, records)
    append_metrics(folder, 5)
    return folder
