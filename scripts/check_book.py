"""Check the rendered book: it stands alone, figures are described, links lead on, sliders move.

    python scripts/check_book.py                       the pages in _build/html
    python scripts/check_book.py --screenshots DIR     and a picture of every page

The first part reads the files. The second opens every page in a headless Chromium, counts requests
to the network and console errors, and moves each slider by keyboard. Without Chromium it is
skipped, and says so.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from _browser import BrowserError, browser, find_browser, inspect
from _common import BUILD, HTML, digest, fail, files_below, files_digest, say, write_text
from _pages import page_files, read_page, static_problems
from build_book import MATHJAX_CDN

HERE = Path(__file__).parent
STAMP = BUILD / "check.stamp"
OWN = files_digest(
    [HERE / n for n in ("check_book.py", "_pages.py", "_browser.py", "_look.js")], HERE
)


def browser_problems(folder: Path, executable: str, pictures: Path | None) -> list[str]:
    """Open every page and collect what is wrong."""
    problems = []
    requests = errors = sliders = 0
    pages = [path for path in page_files(folder) if not read_page(path).redirect]
    with browser(executable) as tab:
        for page in pages:
            name = page.relative_to(folder)
            report = inspect(tab, page, pictures / name.with_suffix(".png") if pictures else None)
            problems += [f"{name}: {problem}" for problem in report.problems()]
            requests += len(report.external)
            errors += len(report.errors)
            sliders += report.sliders
    say(
        f"      browser: {len(pages)} pages opened, {requests} external requests, "
        f"{errors} console errors, {sliders} sliders tried by keyboard"
    )
    return problems


def main() -> None:
    """Check the book; exit status 1 if anything is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, default=HTML)
    parser.add_argument(
        "--screenshots", type=Path, metavar="DIR", help="save a picture of every page here"
    )
    parser.add_argument("--no-browser", action="store_true", help="only read the files")
    arguments = parser.parse_args()
    folder = arguments.folder
    executable = find_browser()
    whole = not arguments.no_browser and arguments.screenshots is None
    key = digest(
        [str(folder.resolve()), str(executable), files_digest(files_below(folder), folder), OWN]
    )
    if whole and STAMP.exists() and STAMP.read_text() == key:
        say("      the pages are those that passed the last time")
        return
    # Only a build that found no MathJax at all refers to it, and has said so.
    cdn = MATHJAX_CDN if not (folder / "mathjax").is_dir() else None
    problems = static_problems(folder, allowed=(cdn,) if cdn else ())
    say(f"      files:   {len(page_files(folder))} pages read, {len(problems)} problems")
    if arguments.no_browser:
        say("      browser: skipped (--no-browser)")
    elif cdn:
        say("      browser: skipped, because MathJax is not local in this build")
    elif executable is None:
        say("      browser: skipped, no Chromium here (Debian, Ubuntu: apt-get install chromium)")
    else:
        try:
            problems += browser_problems(folder, executable, arguments.screenshots)
        except BrowserError as error:
            fail(f"the browser check could not be done with {executable}: {error}")
    if not problems and whole:
        write_text(STAMP, key)
    if problems:
        fail(
            f"{len(problems)} problems in the book:\n"
            + "\n".join(f"  {problem}" for problem in problems)
        )


if __name__ == "__main__":
    main()
