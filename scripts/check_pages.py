"""Read the rendered pages: nothing is fetched, figures are described, links lead somewhere."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

from _common import fail, say
from bs4 import BeautifulSoup

# What a browser fetches by itself.
FETCHED = (
    "script[src], img[src], iframe[src], embed[src], object[data], video, audio, source, track,"
    "use, image, link[rel~=stylesheet], link[rel~=icon], link[rel~=preload], link[rel~=preconnect],"
    "link[rel~=prefetch], link[rel~=modulepreload]"
)
ADDRESSES = ("src", "href", "xlink:href", "data", "poster")
CSS_URL = re.compile(r"""(?:url\(\s*|@import\s+)["']?([^"')\s;]+)""")


def is_external(address: str) -> bool:
    """Tell whether a page opened from disk would ask the network for this address."""
    return address.startswith("//") or urlsplit(address).scheme in ("http", "https", "ws", "wss")


def problems(folder: Path) -> list[str]:
    """Everything wrong with the pages below a folder that shows without a browser."""
    own = ("mathjax", "_static", "_sources")
    paths = sorted(p for p in folder.rglob("*.html") if p.relative_to(folder).parts[0] not in own)
    pages = {p.resolve(): BeautifulSoup(p.read_bytes(), "html.parser") for p in paths}
    anchors = {
        path: {e.get("id") or e.get("name") for e in page.select("[id], [name]")}
        for path, page in pages.items()
    }
    found = [] if pages else [f"there are no pages in {folder}"]
    for path, page in pages.items():
        name = path.relative_to(folder.resolve()).as_posix()
        fetched = [e[a] for e in page.select(FETCHED) for a in ADDRESSES if e.has_attr(a)]
        styles = [e.text for e in page.select("style")] + [
            e["style"] for e in page.select("[style]")
        ]
        fetched += CSS_URL.findall("\n".join(styles))
        found += [f"{name}: fetches {address}" for address in fetched if is_external(address)]
        for image in page.select("img"):
            alt, source = image.get("alt", "").strip(), image.get("src", "")
            if not alt or alt in source:  # without a text, docutils writes the file's name
                found.append(f"{name}: an image without alternative text: {source[:80]}")
        if page.select("script[type*='jupyter.widget']"):
            found.append(f"{name}: widget state, which needs a script from elsewhere")
        if page.select(".output.traceback"):
            found.append(f"{name}: a cell ended with an error")
        if not page.select("html[lang], meta[http-equiv=refresh i]"):
            found.append(f"{name}: the element <html> names no language")
        for link in {*fetched, *(a["href"] for a in page.select("a[href]"))}:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                found.append(f"{name}: a link to {link}, which does not exist")
            elif parts.fragment and unquote(parts.fragment) not in anchors.get(
                target, parts.fragment
            ):
                found.append(f"{name}: a link to {link}: there is no such place on that page")
    for sheet in sorted((folder / "_static").rglob("*.css")):
        urls = CSS_URL.findall(sheet.read_text(encoding="utf-8", errors="replace"))
        found += [f"{sheet.name}: fetches {url}" for url in urls if is_external(url)]
    return found


if __name__ == "__main__":
    if wrong := problems(Path(sys.argv[1])):
        fail("\n  ".join([f"{len(wrong)} problems in the pages:", *wrong]))
    say("  nothing is fetched, every image is described, every link leads somewhere")
