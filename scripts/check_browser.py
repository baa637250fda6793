"""Open every rendered page in a headless Chromium: nothing is asked of the network, nothing fails,
nothing is wider than a telephone, and every slider moves by keyboard.

    python scripts/check_browser.py _build/html             all pages
    python scripts/check_browser.py _build/html PICTURES    and a picture of each, in two widths
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from _common import fail, say
from playwright.sync_api import Locator, Page, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
    "--disable-sync --hide-scrollbars"
).split()
NO_ANSWERS = "--host-resolver-rules=MAP * ~NOTFOUND"  # requests are made and seen, but go nowhere
WIDTHS = (390, 1280)  # a telephone, a laptop
SETTLE = """async () => {
  document.querySelectorAll("details").forEach(d => d.open = true);
  document.querySelectorAll("img[loading=lazy]").forEach(i => i.loading = "eager");
  await window.MathJax?.startup?.promise;
  await Promise.all([...document.images].map(i => i.decode().catch(() => null)));
}"""
FIND = """() => {
  const all = (selector, wrong, words) => [...document.querySelectorAll(selector)].filter(wrong)
    .map(e => `${words}: ${(e.getAttribute("src") || e.textContent).trim().slice(0, 80)}`);
  return [
    ...all("img", i => i.naturalWidth === 0, "an image that cannot be shown"),
    ...all(".math", m => !m.querySelector("mjx-container"), "a formula that is not set"),
    ...all("[data-mjx-error]", () => true, "a formula with an error"),
    ...all("input[type=range]", s => !s.labels.length && !s.ariaLabel, "a slider without a label"),
  ];
}"""
TOO_WIDE = "() => document.documentElement.scrollWidth > document.documentElement.clientWidth + 1"
SLIDERS = "input[type=range]:enabled:visible"


@contextmanager
def browser(executable: str) -> Iterator[Page]:
    """Start Chromium, hand out a tab, and end it afterwards."""
    with sync_playwright() as playwright:
        arguments = [*FLAGS, NO_ANSWERS]
        opened = playwright.chromium.launch(executable_path=executable, args=arguments)
        yield opened.new_page()
        opened.close()


def problems(tab: Page, path: Path, picture: Path | None = None) -> list[str]:
    """Everything wrong with a page that shows when it is open."""
    found: list[str] = []
    listeners = {
        "request": lambda r: (
            r.url.startswith(("http", "ws")) and found.append(f"asked for {r.url}")
        ),
        "console": lambda m: m.type == "error" and found.append(f"console error: {m.text}"),
        "pageerror": lambda error: found.append(f"console error: {error}"),
    }
    for event, listener in listeners.items():
        tab.on(event, listener)
    tab.goto(path.resolve().as_uri())
    tab.evaluate(SETTLE)
    found += tab.evaluate(FIND)
    for width in WIDTHS:
        tab.set_viewport_size({"width": width, "height": 900})
        tab.wait_for_timeout(200)  # columns move
        if tab.evaluate(TOO_WIDE):
            found.append(f"wider than a window of {width} pixels")
        if picture:
            tab.screenshot(path=picture.with_stem(f"{picture.stem}-{width}"), full_page=True)
    sliders = tab.locator(SLIDERS).all()
    wrong = [slider_problem(tab, slider, sliders) for slider in sliders]
    found += [f"slider {number}: {text}" for number, text in enumerate(wrong, 1) if text]
    for event, listener in listeners.items():
        tab.remove_listener(event, listener)
    return found


def slider_problem(tab: Page, slider: Locator, sliders: list[Locator]) -> str | None:
    """Press an arrow key on a slider; tell what did not happen, if anything."""

    def picture() -> bytes:  # of what the sliders steer, without themselves
        return tab.screenshot(style="input[type=range] {visibility: hidden}")

    value, most = slider.input_value(), slider.get_attribute("max") or "100"
    others = [other.input_value() for other in sliders]
    slider.scroll_into_view_if_needed()
    slider.focus()
    before = picture()
    slider.press("ArrowRight" if float(value) < float(most) else "ArrowLeft")
    tab.wait_for_timeout(100)
    if slider.input_value() == value:
        return "an arrow key does not move it"
    if picture() == before:
        return "moving it changes nothing that can be seen"
    moved = sum(old != other.input_value() for old, other in zip(others, sliders, strict=True))
    return "moving it moves another slider, too" if moved > 1 else None


def main() -> None:
    """Open all pages; exit status 1 if anything is wrong."""
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        say("  skipped: no Chromium here (Debian, Ubuntu: apt-get install chromium)")
        return
    folder, found = Path(sys.argv[1]), []
    pages = [p for part in ("book", "notebooks") for p in sorted((folder / part).rglob("*.html"))]
    pages += [folder / "genindex.html", folder / "search.html"]  # index.html only leads on
    with browser(executable) as tab:
        for page in pages:
            name = page.relative_to(folder).as_posix()
            picture = Path(sys.argv[2], name.replace("/", "-") + ".png") if sys.argv[2:] else None
            found += [f"{name}: {problem}" for problem in problems(tab, page, picture)]
    if found:
        fail("\n  ".join([f"{len(found)} problems in the browser:", *found]))
    say(
        f"  {len(pages)} pages ask the network for nothing, fit a telephone, and their sliders move"
    )


if __name__ == "__main__":
    main()
