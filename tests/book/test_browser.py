"""The check in a real browser catches what it is there to catch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from _browser import Report, Tab, browser, find_browser, inspect

pytestmark = pytest.mark.skipif(
    find_browser() is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"
)

Writer = Callable[..., Path]
SLIDER = '<label>step <input type="range" min="0" max="5" value="5" oninput="{}"></label><p>5</p>'
MOVES = SLIDER.format("this.parentNode.nextElementSibling.textContent = this.value")


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    executable = find_browser()
    assert executable is not None
    with browser(executable) as opened:
        yield opened


@pytest.fixture
def look(tab: Tab, write_page: Writer) -> Callable[[str], Report]:
    """Return a function that opens a page with the given body and reports on it."""
    return lambda body: inspect(tab, write_page(body))


def test_a_good_page_has_no_problems(look: Callable[[str], Report]) -> None:
    report = look(f"<h1>Fine</h1>{MOVES}<details><summary>x</summary>{MOVES}</details>")
    assert report.problems() == []
    assert report.sliders == 2


def test_requests_to_the_network_are_counted(look: Callable[[str], Report]) -> None:
    # Asked for only while the page runs: no look at the file can tell.
    report = look("<script>new Image().src = 'ht' + 'tps://x.example/a.png'</script>")
    assert report.external == ["https://x.example/a.png"]


@pytest.mark.parametrize("script", ["console.error('oh no')", "throw new Error('oh no')"])
def test_console_errors_are_counted(look: Callable[[str], Report], script: str) -> None:
    errors = look(f"<script>{script}</script>").errors
    assert len(errors) == 1 and "oh no" in errors[0]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (SLIDER.format(""), "slider 1: moving it changes nothing that can be seen"),
        ('<input type="range">', "a slider without a label"),
        (SLIDER.replace("<input", "<input onkeydown='return false'"), "does not move it"),
        ('<img src="data:image/gif;base64,AA==" alt="x">', "an image that cannot be shown"),
        ('<span class="math">\\(x\\)</span>', "1 formulas that are not set"),
    ],
)
def test_a_planted_defect_is_found(look: Callable[[str], Report], body: str, message: str) -> None:
    assert any(message in problem for problem in look(body).problems())


def test_sliders_that_clash_are_found(look: Callable[[str], Report]) -> None:
    both = "document.querySelectorAll('input').forEach(i => i.value = this.value);"
    both += "document.body.style.background = 'red'"
    assert "slider 1: moving it moves another slider, too" in look(SLIDER.format(both) * 2).findings
