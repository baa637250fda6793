"""The check of the rendered files catches what it is there to catch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from check_pages import problems

Writer = Callable[..., Path]

DEFECTS = {
    "script": ('<script src="https://cdn.example/x.js"></script>', "fetches https://cdn.example"),
    "protocol-relative": ('<script src="//cdn.example/x.js"></script>', "fetches //cdn.example"),
    "style sheet": ('<link rel="stylesheet" href="https://x.example/a.css">', "fetches https://x"),
    "font": ("<style>@font-face {src: url('https://x.example/a.woff')}</style>", "fetches https"),
    "import": ("<style>@import 'https://x.example/a.css';</style>", "fetches https"),
    "background": ("<p style=\"background: url('https://x.example/a')\">x</p>", "fetches https"),
    "image": ('<img alt="a cat" src="https://x.example/a.png">', "fetches https"),
    "frame": ('<iframe src="https://x.example"></iframe>', "fetches https"),
    "no alt": ('<img src="data:image/png;base64,AA==">', "without alternative text"),
    "empty alt": ('<img alt=" " src="data:image/png;base64,AA==">', "without alternative text"),
    "alt by docutils": ('<img alt="page.html" src="page.html">', "without alternative text"),
    "error": ('<div class="output traceback">x</div>', "a cell ended with an error"),
    "widget": (
        '<script type="application/vnd.jupyter.widget-state+json">{}</script>',
        "widget state",
    ),
    "dead link": ('<a href="nowhere.html">x</a>', "does not exist"),
    "dead anchor": ('<a href="#nowhere">x</a>', "no such place"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_planted_defect_is_found(write_page: Writer, defect: str) -> None:
    body, message = DEFECTS[defect]
    found = problems(write_page(body).parent)
    assert len(found) == 1 and message in found[0]
    assert found[0].startswith("page.html: ")


def test_a_page_that_stands_alone_passes(write_page: Writer) -> None:
    write_page("<h2 id='there'>x</h2>", name="other.html")
    page = write_page(
        '<a href="https://example.org">a link is only followed by hand</a>'
        '<a href="other.html#there">x</a><a href="#top">x</a><p id="top">x</p>'
        '<img alt="a dot" src="data:image/png;base64,AA=="><script>let a = 1;</script>',
        head='<link rel="canonical" href="https://example.org/page.html">',
    )
    assert problems(page.parent) == []


def test_a_page_must_name_its_language(write_page: Writer) -> None:
    page = write_page("x").parent / "bare.html"
    page.write_text("<html><body>x</body></html>")
    assert problems(page.parent) == ["bare.html: the element <html> names no language"]


def test_no_pages_is_a_problem(tmp_path: Path) -> None:
    assert problems(tmp_path) == [f"there are no pages in {tmp_path}"]
