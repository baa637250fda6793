"""The house: a room imports only from rooms above it, and through what they offer."""

import ast
import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "moxi_lite"
ROOMS = (
    "games",
    "models",
    "data",
    "patches",
    "explanation",
    "search",
    "attribution",
    "curves",
    "corruption",
    "study",
    "ledger",
)
FOR_ALL = {"errors", "files"}


def imported(path: Path) -> set[str]:
    """Modules of the package that a file names, also inside functions, but not for types alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("moxi_lite"):
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.startswith("moxi_lite")}
    return found


def modules(room: str) -> list[Path]:
    return sorted((PACKAGE / room).glob("*.py"))


def test_every_folder_is_a_room_and_no_file_hides():
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders == set(ROOMS)
    assert not [path for path in PACKAGE.rglob("_*.py") if path.name != "__init__.py"]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_rooms_above_it(room):
    above = {*ROOMS[: ROOMS.index(room)], *FOR_ALL}
    for path in modules(room):
        for name in imported(path) - {"moxi_lite"}:
            _, other, *inside = name.split(".")
            assert other in above or other == room, f"{path.relative_to(ROOT)} imports {name}"
            assert not inside or other == room, f"{path.relative_to(ROOT)} reaches into {name}"


@pytest.mark.parametrize("room", ROOMS)
def test_no_circle_inside_a_room(room):
    inside = {
        path.stem: {name.split(".")[2] for name in imported(path) if name.count(".") == 2}
        for path in modules(room)
        if path.stem != "__init__"
    }
    while inside:
        free = {name for name, needs in inside.items() if not needs & inside.keys()}
        assert free, f"a circle in {room}: {sorted(inside)}"
        inside = {name: needs for name, needs in inside.items() if name not in free}


def users() -> dict[str, str]:
    """Name and code of all that uses the package: scripts, benchmarks, chapters."""
    folders = (ROOT / "scripts", ROOT / "benchmarks")
    code = {str(p.relative_to(ROOT)): p.read_text() for f in folders for p in f.glob("*.py")}
    for path in sorted((ROOT / "notebooks").rglob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        code[path.name] = "\n".join(c.source for c in cells if c.cell_type == "code")
    return code


@pytest.mark.parametrize(("name", "code"), users().items())
def test_scripts_and_chapters_import_what_rooms_offer(name, code):
    for module, names in re.findall(r"^\s*from (moxi_lite\S*) import (\([^)]*\)|.*)", code, re.M):
        _, *path = module.split(".")
        assert not path or path[0] in {*ROOMS, *FOR_ALL}, f"{name} imports from {module}"
        assert len(path) <= 1, f"{name} reaches into {module}"
        assert not re.search(r"\b_\w", names), f"{name} imports something private: {names}"
