"""The check in a real browser catches what it is there to catch."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from check_browser import BROWSERS, browser, problems
from playwright.sync_api import Page

CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"
)

SLIDER = '<label>step <input type="range" min="0" max="5" value="5" oninput="{}"></label><p>5</p>'
MOVES = SLIDER.format("this.parentNode.nextElementSibling.textContent = this.value")
BOTH = "document.querySelectorAll('input').forEach(i => i.value = this.value);"
BOTH += "document.body.style.background = 'red'"


@pytest.fixture(scope="module")
def tab() -> Iterator[Page]:
    assert CHROMIUM is not None
    with browser(CHROMIUM) as opened:
        yield opened


def test_a_good_page_has_no_problems(tab: Page, write_page: Callable[..., Path]) -> None:
    page = write_page(f"<h1>Fine</h1>{MOVES}<details><summary>x</summary>{MOVES}</details>")
    assert problems(tab, page) == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        # Asked for only while the page runs: no look at the file can tell.
        (
            "<script>new Image().src = 'ht' + 'tps://x.example/a.png'</script>",
            "asked for https://x",
        ),
        ("<script>console.error('oh no')</script>", "console error: oh no"),
        ("<script>throw new Error('oh no')</script>", "console error: oh no"),
        ('<div style="width: 500px">x</div>', "wider than a window of 390 pixels"),
        (SLIDER.format(""), "slider 1: moving it changes nothing that can be seen"),
        ('<input type="range">', "a slider without a label"),
        (SLIDER.replace("<input", "<input onkeydown='return false'"), "does not move it"),
        (SLIDER.format(BOTH) * 2, "slider 1: moving it moves another slider, too"),
        ('<img src="data:image/gif;base64,AA==" alt="x">', "an image that cannot be shown"),
        ('<span class="math">\\(x\\)</span>', "a formula that is not set"),
    ],
)
def test_a_planted_defect_is_found(
    tab: Page, write_page: Callable[..., Path], body: str, message: str
) -> None:
    assert any(message in problem for problem in problems(tab, write_page(body)))
