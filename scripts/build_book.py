"""Stage the book under _build/stage and render it to _build/html; any warning is an error.

The stage holds _config.yml, _toc.yml, book/ and the notebooks as run_notebooks.py executed them,
plus what only a build knows: the ledger's table, the execution times, and a copy of MathJax.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from _common import (
    BUILD,
    HTML,
    LOGS,
    PROFILES,
    ROOT,
    book_profile,
    digest,
    executed_folder,
    fail,
    files_below,
    files_digest,
    run_logged,
    say,
    without_colours,
    write_text,
)

STAGE = BUILD / "stage"
ZIP = BUILD / "moxi-lite-book.zip"
STAMP = BUILD / "html.stamp"
MATHJAX_PARTS = ("tex-svg.js", "input/tex/extensions", "a11y", "sre", "ui")
MATHJAX_CDN = "https://cdn.jsdelivr.net/npm/mathjax@3/es5/tex-svg.js"
COLAB_BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
GENERATED_PAGES = ("book/execution_times",)


def toc_entries(toc: Any) -> list[str]:
    """All documents that a _toc.yml names, in order."""
    if isinstance(toc, list):
        return [entry for item in toc for entry in toc_entries(item)]
    if not isinstance(toc, dict):
        return []
    own = [toc[key] for key in ("root", "file") if key in toc]
    return own + [
        entry for key in ("parts", "chapters", "sections") for entry in toc_entries(toc.get(key))
    ]


def missing_documents(toc: Any, root: Path) -> list[str]:
    """Entries of the table of contents for which there is neither a page nor a notebook."""
    return [
        entry
        for entry in toc_entries(toc)
        if entry not in GENERATED_PAGES
        and not any((root / f"{entry}{end}").is_file() for end in (".md", ".ipynb"))
    ]


def stage(profile: str) -> None:
    """Lay out everything that Jupyter Book needs in a fresh _build/stage."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    if missing := missing_documents(toc, ROOT):
        fail(f"_toc.yml names what is not there: {', '.join(missing)} (.md or .ipynb).")
    shutil.rmtree(STAGE, ignore_errors=True)
    STAGE.mkdir(parents=True)
    config = (ROOT / "_config.yml").read_text(encoding="utf-8")
    address = yaml.safe_load(config)["repository"]["url"]
    write_text(STAGE / "_config.yml", stage_mathjax(config))
    shutil.copy(ROOT / "_toc.yml", STAGE)
    stage_prose(address)
    runs = stage_notebooks(
        executed_folder(profile), [e for e in toc_entries(toc) if e.startswith("notebooks/")]
    )
    write_text(STAGE / "book" / "execution_times.md", execution_times_page(runs, profile))
    write_text(
        STAGE / "book" / "_ledger_table.md",
        ledger_table(executed_folder(profile).parent / "ledger"),
    )


def stage_prose(address: str) -> None:
    """Copy book/ and put the repository's address in place of `{{ repository_url }}`."""
    shutil.copytree(ROOT / "book", STAGE / "book", ignore=shutil.ignore_patterns(".*"))
    for page in (STAGE / "book").rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        page.write_text(re.sub(r"\{\{\s*repository_url\s*\}\}", address, text), encoding="utf-8")


def stage_notebooks(folder: Path, entries: list[str]) -> list[tuple[str, dict[str, Any]]]:
    """Copy the executed notebooks; return the path of each with the record of its run."""
    runs = []
    for entry in entries:
        relative = Path(entry).relative_to("notebooks")
        source = folder / relative.with_suffix(".ipynb")
        record = source.with_suffix(".run.json")
        if not (source.exists() and record.exists()):
            fail(f"{entry}.ipynb has not been run: run `make notebooks` (or `make book`) first.")
        target = STAGE / f"{entry}.ipynb"
        notebook = json.loads(source.read_text(encoding="utf-8"))
        write_text(
            target,
            json.dumps(for_the_page(notebook, len(relative.parts)), ensure_ascii=False, indent=1),
        )
        runs.append((entry, json.loads(record.read_text(encoding="utf-8"))))
    return runs


def for_the_page(notebook: dict[str, Any], depth: int) -> dict[str, Any]:
    """Give the badge a local picture, and fold away the cells that only matter when running."""
    badge = "../" * depth + "book/_static/colab-badge.svg"
    for cell in notebook["cells"]:
        tags = cell["metadata"].setdefault("tags", [])
        if cell["cell_type"] == "markdown":
            cell["source"] = "".join(cell["source"]).replace(COLAB_BADGE, badge)
        elif {"install", "parameters"} & set(tags):
            tags.append("hide-input")
    return notebook


def stage_mathjax(config: str) -> str:
    """Put MathJax under _extra/mathjax; return the configuration, changed if only a CDN is left."""
    (STAGE / "_extra").mkdir(parents=True, exist_ok=True)
    target = STAGE / "_extra" / "mathjax" / "es5"
    package = importlib.util.find_spec("mathjax")
    if package is not None and package.origin is not None:
        copy_mathjax(Path(package.origin).parent / "static" / "mathjax" / "es5", target)
        return config
    say("      the package django-static-mathjax is not installed: asking npm for MathJax")
    if mathjax_from_npm(target):
        return config
    say(f"      NOTICE: no local MathJax. The pages will fetch it from {MATHJAX_CDN}")
    return re.sub(r"(?m)^(\s*mathjax_path:).*$", rf"\1 {MATHJAX_CDN}", config)


def copy_mathjax(source: Path, target: Path) -> None:
    """Copy the parts of MathJax that the pages can ask for."""
    for part in MATHJAX_PARTS:
        if (source / part).is_dir():
            shutil.copytree(source / part, target / part)
        else:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / part, target / part)


def mathjax_from_npm(target: Path) -> bool:
    """Fetch MathJax 3 with npm, if there is npm and it can."""
    npm = shutil.which("npm")
    if npm is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [npm, "pack", "mathjax@3"], cwd=folder, capture_output=True, check=False
        )
        archives = list(Path(folder).glob("mathjax-3*.tgz"))
        if done.returncode != 0 or not archives:
            return False
        copy_mathjax(unpack_es5(archives[0], Path(folder)), target)
    return True


def unpack_es5(archive: Path, folder: Path) -> Path:
    """Write the plain files below package/es5 of an archive of npm into a folder."""
    # By hand, because the safe filters of extractall came with Python 3.11.4.
    with tarfile.open(archive) as members:
        for member in members:
            parts = PurePosixPath(member.name).parts
            if member.isfile() and parts[:2] == ("package", "es5") and ".." not in parts:
                content = members.extractfile(member)
                assert content is not None  # a plain file has a content
                path = folder.joinpath(*parts)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.read())
    return folder / "package" / "es5"


def execution_times_page(runs: list[tuple[str, dict[str, Any]]], profile: str) -> str:
    """Write the page that lists how long each notebook ran."""
    rows = [
        f"| [{Path(entry).name}](../{entry}.ipynb) | {run['seconds']:.1f} | {run['finished']} |"
        for entry, run in runs
    ]
    total = sum(run["seconds"] for _, run in runs)
    return "\n".join(
        [
            "# Execution times",
            "",
            "Every chapter of this copy of the book was run from start to end on the machine that",
            f"built it, with the profile `{profile}`. Times are wall time and include starting the",
            "kernel and loading the model.",
            "",
            "| Chapter | Time (s) | Finished (UTC) |",
            "|---|---:|---|",
            *rows,
            f"| **all chapters** | **{total:.1f}** | |",
            "",
            f"Built with Python {sys.version.split()[0]}, PyTorch {metadata.version('torch')},",
            f"timm {metadata.version('timm')} and NumPy {metadata.version('numpy')}.",
            "",
        ]
    )


def ledger_table(folder: Path) -> str:
    """Write the table of the paper's claims beside what the notebooks recorded."""
    from moxi_lite import ledger

    folder.mkdir(parents=True, exist_ok=True)
    return ledger.markdown_table(ledger.table(ledger.read_entries(folder)))


def render() -> None:
    """Run Jupyter Book over the stage, unless the pages were made from the same."""
    key = digest([files_digest(files_below(STAGE), STAGE), package_versions(), package_digest()])
    if STAMP.exists() and STAMP.read_text() == key and (HTML / "index.html").exists():
        say("      nothing has changed since the pages were rendered")
        return
    STAMP.unlink(missing_ok=True)
    # From scratch: Sphinx repeats no warning for a page that it takes from its cache.
    for old in (HTML, BUILD / ".doctrees"):
        shutil.rmtree(old, ignore_errors=True)
    log = LOGS / "jupyter-book.txt"
    code = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"
    options = ["build", str(STAGE), "--path-output", str(BUILD.parent), "-n", "-W", "--keep-going"]
    status = run_logged([sys.executable, "-c", code, *options], log)
    problems = warnings_in(log.read_text(encoding="utf-8", errors="replace"))
    if status != 0 or problems or not (HTML / "index.html").exists():
        listed = "\n".join(f"  {line}" for line in problems) or "\n".join(
            log.read_text().splitlines()[-30:]
        )
        fail(f"Jupyter Book found problems (all of its output: {log.relative_to(ROOT)}):\n{listed}")
    write_text(HTML / "index.html", redirect_page())
    write_text(STAMP, key)


def redirect_page() -> str:
    """The page to open first; Sphinx's own names neither a language nor a link."""
    settings = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    root = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))["root"]
    title, address = settings["title"], f"{root}.html"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{title}</title>\n"
        f'<meta http-equiv="refresh" content="0; url={address}">\n</head>\n'
        f'<body><p>The book begins at <a href="{address}">{address}</a>.</p></body>\n</html>\n'
    )


def warnings_in(log: str) -> list[str]:
    """Pick Sphinx's warnings and errors from its output, without colours and the stage's path."""
    plain = without_colours(log).replace(f"{STAGE}/", "")
    return [
        line
        for line in plain.splitlines()
        if re.search(r"\b(WARNING|ERROR|CRITICAL|SEVERE)\b", line)
    ]


def package_versions() -> str:
    """Versions of what renders the pages."""
    names = (
        "jupyter-book",
        "Sphinx",
        "myst-nb",
        "sphinx-book-theme",
        "sphinxcontrib-bibtex",
        "numpydoc",
    )
    return " ".join(f"{name}=={metadata.version(name)}" for name in names)


def package_digest() -> str:
    """Hash of the package, whose docstrings the API page shows."""
    return files_digest(files_below(ROOT / "moxi_lite"), ROOT)


def pack() -> None:
    """Write the pages as one zip whose only top folder is moxi-lite-book/."""
    if not (HTML / "index.html").exists():
        fail("there are no rendered pages to pack: run `make book`.")
    temporary = ZIP.with_suffix(".tmp")
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files_below(HTML):
            archive.write(path, Path("moxi-lite-book") / path.relative_to(HTML))
    temporary.replace(ZIP)
    say(f"      {ZIP.relative_to(ROOT)}: {ZIP.stat().st_size / 1e6:.1f} MB")
    say("      unpack it anywhere and open moxi-lite-book/index.html")


def main() -> None:
    """Stage and render, or only pack."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--profile",
        choices=PROFILES,
        default=book_profile(),
        help="which executed notebooks to show",
    )
    parser.add_argument("--zip-only", action="store_true", help="pack the pages that are there")
    arguments = parser.parse_args()
    if arguments.zip_only:
        pack()
        return
    start = time.monotonic()
    stage(arguments.profile)
    render()
    say(f"      pages in {HTML.relative_to(ROOT)} ({time.monotonic() - start:.0f} s)")


if __name__ == "__main__":
    main()
