"""How fast the viewer is on a large run, in Chromium: first rows, a group, live lag, memory, and the index made anew.

    PYTHONPATH=.:tests/helpers python -m benchmarks.viewer outputs/large_run

Makes the run first where it is not there: 1,000 steps of 8 groups of 8 responses, without clips.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from viewed_runs import make_record, write_large_run, write_step

from videor2_rl.run.rollout_index import INDEX_FILE, update_index

if TYPE_CHECKING:
    from playwright.sync_api import Page


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--groups", type=int, default=8, help="a step")
    parser.add_argument("--size", type=int, default=8, help="responses of a group")
    arguments = parser.parse_args()
    if not arguments.folder.exists():
        write_large_run(arguments.folder, steps=arguments.steps, groups=arguments.groups, size=arguments.size)
    print(f"index made anew: {_index_anew(arguments.folder):.1f} s")
    command = [sys.executable, "-m", "videor2_rl.view", str(arguments.folder), "--port", "0"]
    viewer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert viewer.stdout is not None
        address = next(word for word in viewer.stdout.readline().split() if word.startswith("http")).rstrip("/")
        _in_chromium(address, arguments.folder, last_step=arguments.steps)
        status = Path(f"/proc/{viewer.pid}/status").read_text()
        peak = re.search(r"VmHWM:\s+(\d+)", status)
        assert peak is not None
        print(f"most memory of the viewer: {int(peak[1]) / 1024:.0f} MiB")
    finally:
        viewer.terminate()
        viewer.wait()


def _index_anew(folder: Path) -> float:
    (folder / INDEX_FILE).unlink()
    started = time.perf_counter()
    update_index(folder)
    return time.perf_counter() - started


def _in_chromium(address: str, folder: Path, *, last_step: int) -> None:
    from playwright.sync_api import sync_playwright

    executable = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        page = browser.new_page()
        # Once before: what a browser and a server do the first time only is no part of the run's size.
        page.goto(f"{address}/workers")
        page.wait_for_selector("main h1")
        print(f"first rows: {_seconds(page, f'{address}/rollouts', 'a.group'):.2f} s")
        step = last_step // 2
        for group in (8 * step - 8, 8 * step - 7, 8 * step - 6):
            path = f"{address}/group?step={step}&group={group}"
            print(f"a group: {_seconds(page, path, 'article.response'):.2f} s")
        print(f"curves: {_seconds(page, address, '.chart canvas'):.2f} s")
        page.goto(f"{address}/rollouts")
        page.wait_for_selector("a.group")
        # The stream of events has to be there before what it tells of.
        page.wait_for_timeout(3000)
        write_step(folder, last_step + 1, [make_record(10**6, seed=1, size=8, video="clip.mp4")])
        started = time.perf_counter()
        page.wait_for_selector(".fresh:not([hidden])")
        print(f"live lag: {time.perf_counter() - started:.2f} s")
        browser.close()
    (folder / "rollouts" / f"step_{last_step + 1:06d}.jsonl").unlink()


def _seconds(page: Page, address: str, selector: str) -> float:
    """From asking for a page to seeing a part of it."""
    started = time.perf_counter()
    page.goto(address, wait_until="commit")
    page.wait_for_selector(selector)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
