"""Read rendered pages without a browser: what they fetch, what is undescribed, dead links."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Attributes whose address a browser fetches by itself, by element.
FETCHED = {
    "script": ("src",),
    "img": ("src", "srcset"),
    "iframe": ("src",),
    "embed": ("src",),
    "object": ("data",),
    "video": ("src", "poster"),
    "audio": ("src",),
    "source": ("src", "srcset"),
    "track": ("src",),
    "input": ("src",),
    "use": ("href", "xlink:href"),
    "image": ("href", "xlink:href"),
}
FETCHING_RELATIONS = {
    "stylesheet",
    "preload",
    "prefetch",
    "modulepreload",
    "icon",
    "preconnect",
    "dns-prefetch",
    "manifest",
}
WIDGET_TYPES = (
    "application/vnd.jupyter.widget-state+json",
    "application/vnd.jupyter.widget-view+json",
)
CSS_URL = re.compile(r"""(?:url\(\s*|@import\s+)["']?([^"')\s;]+)""")


@dataclass
class Page:
    """What was found in one page."""

    path: Path
    fetched: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)
    undescribed: list[str] = field(default_factory=list)
    widgets: int = 0
    language: str = ""
    redirect: str = ""


class _Reader(HTMLParser):
    def __init__(self, page: Page) -> None:
        super().__init__()
        self.page = page
        self.in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        page = self.page
        page.anchors.update(given[name] for name in ("id", "name") if given.get(name))
        for name in FETCHED.get(tag, ()):
            if given.get(name):
                page.fetched += _addresses(name, given[name])
        if tag == "link" and FETCHING_RELATIONS & set(given.get("rel", "").lower().split()):
            page.fetched.append(given.get("href", ""))
        if tag == "meta" and given.get("http-equiv", "").lower() == "refresh":
            page.redirect = given.get("content", "").partition("url=")[2].strip("'\" ")
            page.links.append(page.redirect)
        if tag == "a" and given.get("href"):
            page.links.append(given["href"])
        if tag == "img" and not given.get("alt", "").strip():
            page.undescribed.append(given.get("src", "")[:80])
        if tag == "script" and given.get("type") in WIDGET_TYPES:
            page.widgets += 1
        if tag == "html":
            page.language = given.get("lang", "")
        if "style" in given:
            page.fetched += CSS_URL.findall(given["style"])
        self.in_style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self.in_style = False

    def handle_data(self, data: str) -> None:
        if self.in_style:
            self.page.fetched += CSS_URL.findall(data)


def _addresses(attribute: str, value: str) -> list[str]:
    return (
        [part.split()[0] for part in value.split(",") if part.split()]
        if attribute == "srcset"
        else [value]
    )


def read_page(path: Path) -> Page:
    """Parse one HTML file."""
    page = Page(path)
    reader = _Reader(page)
    reader.feed(path.read_text(encoding="utf-8"))
    reader.close()
    return page


def is_external(address: str) -> bool:
    """Tell whether a page opened from disk would ask the network for this address."""
    return address.startswith("//") or urlsplit(address).scheme in (
        "http",
        "https",
        "ws",
        "wss",
        "ftp",
    )


def page_files(folder: Path) -> list[Path]:
    """The book's pages, without what lies beside them (MathJax, static files)."""
    return sorted(
        p
        for p in folder.rglob("*.html")
        if p.relative_to(folder).parts[0] not in ("mathjax", "_static", "_sources")
    )


def static_problems(folder: Path, allowed: tuple[str, ...] = ()) -> list[str]:
    """Everything wrong with the pages below a folder that shows without a browser."""
    pages = {path.resolve(): read_page(path) for path in page_files(folder)}
    if not pages:
        return [f"there are no pages in {folder}"]
    problems = []
    for page in pages.values():
        name = page.path.relative_to(folder).as_posix()
        problems += [
            f"{name}: fetches {a}" for a in page.fetched if is_external(a) and a not in allowed
        ]
        problems += [
            f"{name}: an image without alternative text: {src}" for src in page.undescribed
        ]
        problems += [f"{name}: widget state, which needs a script from a CDN"] * bool(page.widgets)
        problems += [f"{name}: the element <html> names no language"] * (not page.language)
        problems += [f"{name}: {dead}" for dead in _dead_links(page, pages)]
    for sheet in sorted((folder / "_static").rglob("*.css")):
        text = sheet.read_text(encoding="utf-8", errors="replace")
        problems += [
            f"{sheet.relative_to(folder)}: fetches {a}"
            for a in CSS_URL.findall(text)
            if is_external(a)
        ]
    return problems


def _dead_links(page: Page, pages: dict[Path, Page]) -> list[str]:
    dead = []
    for link in [*page.links, *page.fetched]:
        parts = urlsplit(link)
        if parts.scheme or link.startswith("//"):
            continue
        target = (
            (page.path.parent / unquote(parts.path)).resolve()
            if parts.path
            else page.path.resolve()
        )
        if not target.exists():
            dead.append(f"a link to {link}, which does not exist")
        elif (
            parts.fragment
            and target in pages
            and unquote(parts.fragment) not in pages[target].anchors
        ):
            dead.append(f"a link to {link}: there is no such place on that page")
    return sorted(set(dead))
