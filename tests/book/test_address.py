"""Whatever names the repository names the address that _config.yml does."""

from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path

import nbformat
import pytest
import set_address
import yaml
from _common import NOTEBOOKS, ROOT, chapters

CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]
URL, BRANCH = CONFIG["url"], CONFIG["branch"]
BADGE = (
    "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    f"(https://colab.research.google.com/github/{URL.removeprefix('https://github.com/')}/blob/"
    f"{BRANCH}/notebooks/"
)
TEXTS = (".ipynb", ".md", ".yml", ".toml", ".cff")


def toc_notebooks() -> list[str]:
    text = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    return re.findall(r"file: notebooks/(\S+)", text)


@pytest.mark.parametrize("name", chapters(), ids=str)
def test_badge_and_install_cell(name: Path) -> None:
    cells = nbformat.read(NOTEBOOKS / name, as_version=4).cells
    tagged = {tag: cell.source for cell in cells for tag in cell.metadata.get("tags", [])}
    assert tagged["badge"] == f"{BADGE}{name.as_posix()})"
    install = tagged["install"].splitlines()
    assert f'    source = "git+{URL}@{BRANCH}"' in install
    assert len(install) <= 12 and max(map(len, install)) <= 79
    first = nbformat.read(NOTEBOOKS / chapters()[0], as_version=4).cells[2].source
    assert tagged["install"] == first


def test_badges_and_install_cells_name_the_tag_of_the_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert BRANCH == f"v{project['version']}"
    assert f"\nversion: {project['version']}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_table_of_the_readme_lists_the_chapters() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[(\d\d) · .+\]\(notebooks/(\S+)\.ipynb\) \| (.+) \|$", text, re.M)
    assert [name for _, name, _ in rows] == toc_notebooks()
    for number, name, badge in rows:
        assert name.startswith(number) and badge == f"{BADGE}{name}.ipynb)"


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("README.md", f"git clone {URL}\ncd {URL.rpartition('/')[2]}\n"),
        ("book/how_to_use.md", f"git clone {URL}\n"),
        ("CITATION.cff", f'repository-code: "{URL}"\n'),
        ("pyproject.toml", f'Repository = "{URL}"\nIssues = "{URL}/issues"\n'),
    ],
)
def test_other_files(name: str, line: str) -> None:
    assert line in (ROOT / name).read_text(encoding="utf-8")


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of everything that names the address, for set_address.py to work on."""
    for folder in ("book", "notebooks"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    for name in ("_config.yml", "README.md", "CITATION.cff", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.setattr(set_address, "ROOT", tmp_path)
    return tmp_path


def test_a_new_address_and_version_reach_every_place(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = (copy / "pyproject.toml").read_text()
    version = BRANCH.removeprefix("v")
    (copy / "pyproject.toml").write_text(project.replace(f'"{version}"', '"7.8.9"'))
    before = {path: path.read_text() for path in copy.rglob("*.*") if path.suffix in TEXTS}
    monkeypatch.setattr("sys.argv", ["set_address.py", "https://github.com/some-body/else.where/"])
    set_address.main()
    slug = URL.removeprefix("https://github.com/")
    for path, text in before.items():
        wanted = text.replace(f"/{slug}@{BRANCH}", f"/{slug}@v7.8.9")
        wanted = wanted.replace(f"/{slug}/blob/{BRANCH}/", f"/{slug}/blob/v7.8.9/")
        wanted = wanted.replace(f"\n  branch: {BRANCH}\n", "\n  branch: v7.8.9\n")
        wanted = wanted.replace(f"github.com/{slug}", "github.com/some-body/else.where")
        wanted = wanted.replace(f"/github/{slug}/", "/github/some-body/else.where/")
        wanted = wanted.replace(f"\ncd {slug.split('/')[1]}\n", "\ncd else.where\n")
        assert path.read_text() == wanted
    assert sum(path.read_text() != text for path, text in before.items()) >= len(chapters()) + 5


def test_the_placeholder_cannot_be_released(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = (copy / "_config.yml").read_text()
    monkeypatch.setattr("sys.argv", ["set_address.py", "--check"])
    (copy / "_config.yml").write_text(config.replace(URL, "https://github.com/your--name/this"))
    with pytest.raises(SystemExit):
        set_address.main()
    (copy / "_config.yml").write_text(config.replace(URL, "https://github.com/some-body/this"))
    set_address.main()


@pytest.mark.parametrize(
    "address",
    [
        "https://example.org/a/b",
        "https://github.com/a",
        "https://github.com/nobody--registers/this",
        "https://github.com/-a/b",
        "x",
    ],
)
def test_an_address_that_colab_cannot_open_is_refused(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["set_address.py", address])
    with pytest.raises(SystemExit):
        set_address.main()
