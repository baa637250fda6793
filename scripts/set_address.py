"""Write the repository's address, and the version's tag, wherever they stand; or check the address.

python scripts/set_address.py https://github.com/OWNER/NAME
python scripts/set_address.py --check
"""

from __future__ import annotations

import re
import sys
import tomllib

import yaml
from _common import ROOT, fail, say

NAMED_IN = ("*.yml", "*.md", "*.toml", "*.cff", "book/**/*.md", "notebooks/**/*.ipynb")
OWNER = r"[A-Za-z\d]+(?:-[A-Za-z\d]+)*"  # what GitHub registers: never two hyphens in a row
ADDRESS = re.compile(rf"https://github\.com/({OWNER}/([\w.-]+?))(?:\.git)?/?")


def main() -> None:
    """Replace the address and the tag that _config.yml tells."""
    told = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]
    check = sys.argv[-1] == "--check"
    wanted = told["url"] if check else sys.argv[-1]
    new = ADDRESS.fullmatch(wanted)
    if new is None:
        fail(f"{wanted!r} is no address on GitHub: set_address.py https://github.com/OWNER/NAME")
    if check:
        return
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    old, tag = told["url"].removeprefix("https://github.com/"), re.escape(told["branch"])
    address = re.compile(rf"(github(?:\.com)?/){re.escape(old)}(?![\w-])")
    tagged = re.compile(rf"({re.escape(new[1])}(?:@|/blob/)|\n  branch: ){tag}\b")
    for path in sorted({path for pattern in NAMED_IN for path in ROOT.glob(pattern)}):
        text = path.read_text(encoding="utf-8")
        changed = address.sub(rf"\g<1>{new[1]}", text)
        changed = changed.replace(f"\ncd {old.split('/')[1]}\n", f"\ncd {new[2]}\n")
        changed = tagged.sub(rf"\g<1>v{project['version']}", changed)
        if changed != text:
            path.write_text(changed, encoding="utf-8")
            say(f"changed {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
