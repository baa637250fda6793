"""The reference pages agree with the package: symbols, API, and headings that chapters link to."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

import moxi_lite

BOOK = Path(__file__).parents[2] / "book"
PAGE = BOOK / "symbols.md"
HEADER = ["Paper", "Meaning", "Code", "Where"]


def read_rows() -> list[list[str]]:
    """Return the cells of all tables with the page's header."""
    rows, inside = [], False
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if cells == HEADER:
            inside = True
        elif not line.startswith("|"):
            inside = False
        elif inside and not set(line) <= set("|-: "):
            rows.append(cells)
    return rows


def code_names() -> list[str]:
    return sorted({name for row in read_rows() for name in re.findall(r"`([^`]+)`", row[2])})


def resolve(dotted: str) -> object:
    """Follow a dotted name through modules, classes, attributes, fields and parameters."""
    parts = dotted.split(".")
    found: object = importlib.import_module(parts[0])
    for depth, part in enumerate(parts[1:], start=2):
        if hasattr(found, part):
            found = getattr(found, part)
        elif inspect.ismodule(found):
            found = importlib.import_module(".".join(parts[:depth]))
        elif inspect.isclass(found) and is_documented_attribute(found, part):
            found = None  # set on instances
        else:
            raise AttributeError(f"{dotted}: {found!r} has no {part!r}")
    return found


def is_documented_attribute(cls: type, name: str) -> bool:
    return re.search(rf"^\s*(\w+, )*{name}(, \w+)* : ", cls.__doc__ or "", re.M) is not None


def test_the_page_has_a_table_of_four_columns():
    rows = read_rows()
    assert len(rows) > 20
    for row in rows:
        assert len(row) == len(HEADER), row
        assert all(row), row


def test_every_row_names_code():
    for row in read_rows():
        assert re.search(r"`moxi_lite\.[^`]+`", row[2]), row


@pytest.mark.parametrize("name", code_names())
def test_a_code_name_exists(name):
    resolve(name)


def test_a_wrong_name_is_found_out():
    with pytest.raises((AttributeError, ModuleNotFoundError)):
        resolve("moxi_lite.explanation.Explanation.no_such_field")


def test_the_api_page_lists_every_public_name_and_what_chapters_import():
    page = (BOOK / "api.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^\.\. auto\w+:: (?:\w+\.)*(\w+)", page, re.MULTILINE))
    modules = {name for name in moxi_lite.__all__ if inspect.ismodule(getattr(moxi_lite, name))}
    sources = " ".join(path.read_text() for path in BOOK.parent.glob("notebooks/*.ipynb"))
    imports = re.findall(r"from moxi_lite\.\w+ import ([\w, ]+)", sources)
    taught = {name for line in imports for name in line.split(", ")}
    assert (set(moxi_lite.__all__) | taught | {"evaluating"}) - modules - shown == set()


def test_the_api_page_names_only_what_exists():
    page = (BOOK / "api.md").read_text(encoding="utf-8")
    for name in re.findall(r"^\.\. auto\w+:: ([\w.]+)", page, re.MULTILINE):
        resolve(name if name.startswith("moxi_lite.") else f"moxi_lite.{name}")


def test_every_equation_has_its_heading():
    page = (BOOK / "equations.md").read_text(encoding="utf-8")
    assert re.findall(r"^## Eq\. (\d+)$", page, re.MULTILINE) == [str(n) for n in range(1, 14)]
