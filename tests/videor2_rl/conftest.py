"""A browser for the tests of pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from browsing import CHROMIUM

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # No sandbox: a container's root may not have one.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """open_page(address, width=, scheme=) -> the page; whatever it complains about fails the test at its end."""
    contexts, faults = [], []

    def show(address: str, *, width: int = 1440, height: int = 900, scheme: Any = "light") -> Page:
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: faults.append(said.text) if "Content Security" in said.text else None)
        page.on("request", lambda sent: faults.append(sent.url) if "127.0.0.1" not in sent.url else None)
        page.goto(address)
        page.wait_for_selector("main h1")
        return page

    yield show
    for context in contexts:
        context.close()
    assert faults == []
