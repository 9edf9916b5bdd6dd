"""Pages in Chromium: what all tests of them ask."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NEEDS_CHROMIUM = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium: apt-get install chromium, and the pages are tested"
)
READ_NUMBER = """video => {
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    const context = canvas.getContext('2d');
    context.drawImage(video, 0, 0);
    let number = 0;
    for (let bit = 0; bit < 8; bit++) {
        const x = Math.round((bit + 0.5) * canvas.width / 8);
        if (context.getImageData(x, canvas.height >> 1, 1, 1).data[0] > 127) number += 1 << bit;
    }
    return number;
}"""


def until(page: Page, condition: str) -> None:
    """Wait until JavaScript says yes; playwright's own way would evaluate it in the page, which forbids that."""
    for _ in range(1200):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never true: {condition}")


def shown_number(page: Page) -> int:
    until(page, "document.querySelector('video') && !document.querySelector('video').seeking")
    # The picture of a seek is on the screen one frame later than the seek is over.
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    number: int = page.locator("video").evaluate(READ_NUMBER)
    return number


def grave_faults(page: Page) -> list[str]:
    """What axe calls serious or critical."""
    from axe_playwright_python.sync_playwright import Axe

    return [
        f"{one['id']}: {one['nodes'][0]['html'][:120]}"
        for one in Axe().run(page).response["violations"]
        if one["impact"] in ("serious", "critical")
    ]
