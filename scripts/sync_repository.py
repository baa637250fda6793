"""Write the repository's address, which stands in _config.yml alone, wherever it is needed.

    python scripts/sync_repository.py           write
    python scripts/sync_repository.py --check   only tell what is out of step (exit status 1)

Generated are: the cells tagged "badge" and "install" of every notebook, the parts of README.md
between `<!-- NAME:start -->` and `<!-- NAME:end -->` (NAME: chapters, clone), the repository-code
of CITATION.cff, and [project.urls] of pyproject.toml. Pages in book/ write {{ repository_url }},
which build_book.py fills in.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from _common import ROOT, fail, files_below, say, write_text

GENERATED_TAGS = {"badge", "install"}
BADGE_IMAGE = "https://colab.research.google.com/assets/colab-badge.svg"
SKIPPED_FOLDERS = ("_build", "build", "dist", "moxi_lite.egg-info", "results")


@dataclass(frozen=True)
class Repository:
    """The public home of the project: address without a slash at its end, and branch."""

    url: str
    branch: str

    @property
    def slug(self) -> str:
        """OWNER/NAME."""
        return urlsplit(self.url).path.strip("/").removesuffix(".git")

    def colab(self, path: str) -> str:
        """Address under which Colab opens a notebook of the repository."""
        return f"https://colab.research.google.com/github/{self.slug}/blob/{self.branch}/{path}"


def read_repository(root: Path = ROOT) -> Repository:
    """Read the address from _config.yml."""
    settings = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))["repository"]
    url = settings["url"].rstrip("/")
    if not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", url):
        fail(
            f"repository.url in _config.yml is {url!r}; Colab opens only https://github.com/OWNER/NAME."
        )
    return Repository(url, settings["branch"])


def badge_cell(repository: Repository, path: str) -> str:
    """Source of the badge cell of the notebook at `path` in the repository."""
    return f"[![Open in Colab]({BADGE_IMAGE})]({repository.colab(path)})"


def install_cell(repository: Repository) -> str:
    """Source of the install cell: does nothing where the package is already there."""
    return (
        "# On Colab: fetch the package, once a session. Colab's own torch and numpy stay.\n"
        "import importlib.util\n"
        "\n"
        'if importlib.util.find_spec("moxi_lite") is None:\n'
        f'    %pip install -q "moxi-lite @ git+{repository.url}@{repository.branch}"'
    )


def tags(cell: dict[str, Any]) -> set[str]:
    """Tags of a notebook's cell."""
    return set(cell.get("metadata", {}).get("tags", []))


def source(cell: dict[str, Any]) -> str:
    """Source of a notebook's cell as one string."""
    return "".join(cell["source"])


def synced_notebook(text: str, repository: Repository, path: str) -> str:
    """Fill in the badge and install cells; a notebook that is in step comes back as it was."""
    notebook = json.loads(text)
    wanted = {"badge": badge_cell(repository, path), "install": install_cell(repository)}
    changed = False
    for cell in notebook["cells"]:
        for tag in tags(cell) & GENERATED_TAGS:
            if source(cell) != wanted[tag]:
                cell["source"] = wanted[tag].splitlines(keepends=True)
                changed = True
    return json.dumps(notebook, ensure_ascii=False, indent=1) + "\n" if changed else text


def block_pattern(name: str) -> re.Pattern[str]:
    """Match a generated part of README.md; group 2 is what stands between the marks."""
    return re.compile(rf"(<!-- {name}:start[^>]*-->\n)(.*?)(<!-- {name}:end -->)", re.DOTALL)


def synced_readme(text: str, repository: Repository, root: Path) -> str:
    """Fill in the generated parts of README.md."""
    name = repository.slug.rsplit("/", 1)[-1]
    blocks = {
        "clone": f"```bash\ngit clone {repository.url}\ncd {name}\nmake book\n```\n",
        "chapters": chapters_table(repository, root),
    }
    for block, content in blocks.items():
        if found := block_pattern(block).search(text):
            text = text[: found.start(2)] + content + text[found.end(2) :]
    return text


def chapters_table(repository: Repository, root: Path) -> str:
    """List the chapters with a link into the repository and one to Colab."""
    rows = ["| Chapter | Run it |", "|---|---|"]
    for path in sorted((root / "notebooks").glob("[0-9]*.ipynb")):
        relative = path.relative_to(root).as_posix()
        rows.append(f"| [{title(path)}]({relative}) | {badge_cell(repository, relative)} |")
    return "\n".join(rows) + "\n"


def title(notebook: Path) -> str:
    """The first heading of a notebook."""
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        found = (
            re.search(r"^# (.+)$", source(cell), re.MULTILINE)
            if cell["cell_type"] == "markdown"
            else None
        )
        if found:
            return found[1].strip()
    return notebook.stem


def synced_citation(text: str, repository: Repository) -> str:
    """Fill in the address in CITATION.cff."""
    return re.sub(r"(?m)^repository-code:.*$", f'repository-code: "{repository.url}"', text)


def synced_pyproject(text: str, repository: Repository) -> str:
    """Write the table [project.urls]: in its place, or before [tool.setuptools]."""
    table = f'[project.urls]\nRepository = "{repository.url}"\nIssues = "{repository.url}/issues"\n'
    if "[project.urls]" in text:
        return re.sub(r"\[project\.urls\]\n(?:[^\[\n][^\n]*\n)*", table, text)
    return text.replace("[tool.setuptools]\n", f"{table}\n[tool.setuptools]\n", 1)


def out_of_step(root: Path = ROOT) -> dict[Path, str]:
    """Files that have to change, with the text that they should have."""
    repository = read_repository(root)
    writers: dict[Path, Callable[[str], str]] = {
        root / "README.md": partial(synced_readme, repository=repository, root=root),
        root / "CITATION.cff": partial(synced_citation, repository=repository),
        root / "pyproject.toml": partial(synced_pyproject, repository=repository),
    }
    for path in files_below(root / "notebooks"):
        if path.suffix == ".ipynb":
            relative = path.relative_to(root).as_posix()
            writers[path] = partial(synced_notebook, repository=repository, path=relative)
    changes = {}
    for path, writer in writers.items():
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            if (new := writer(text)) != text:
                changes[path] = new
    return changes


def stray_mentions(root: Path = ROOT) -> list[str]:
    """Files that name the repository by hand, outside of what this script reads and writes."""
    pattern = re.compile(rf"github(?:\.com)?[/:]{re.escape(read_repository(root).slug)}(?![\w-])")
    found = []
    for path in files_below(root):
        relative = path.relative_to(root)
        if relative.parts[0] in SKIPPED_FOLDERS or relative.as_posix() == "_config.yml":
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if pattern.search(by_hand(text, relative.as_posix())):
            found.append(relative.as_posix())
    return found


def by_hand(text: str, name: str) -> str:
    """What remains of a file without the parts that this script writes."""
    if name.endswith(".ipynb"):
        cells = json.loads(text)["cells"]
        return "\n".join(source(cell) for cell in cells if not tags(cell) & GENERATED_TAGS)
    if name == "README.md":
        for block in ("chapters", "clone"):
            text = block_pattern(block).sub("", text)
    if name == "CITATION.cff":
        text = re.sub(r"(?m)^repository-code:.*$", "", text)
    if name == "pyproject.toml":
        text = re.sub(r"\[project\.urls\]\n(?:[^\[\n][^\n]*\n)*", "", text)
    return text


def main() -> None:
    """Write or check."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="change nothing; exit status 1 if something is out of step",
    )
    check = parser.parse_args().check
    changes = out_of_step()
    names = [path.relative_to(ROOT).as_posix() for path in changes]
    if not check:
        for path, text in changes.items():
            write_text(path, text)
        say(f"written: {', '.join(names)}" if names else "everything is in step with _config.yml")
    elif names:
        listed = ", ".join(names)
        fail(f"out of step with _config.yml: {listed}. Run: python scripts/sync_repository.py")
    if strays := stray_mentions():
        fail(f"only _config.yml may name the repository by hand, but so do: {', '.join(strays)}")


if __name__ == "__main__":
    main()
