"""Give the repository another address, wherever it is named: set_address.py https://github.com/OWNER/NAME."""

from __future__ import annotations

import re
import sys

import yaml
from _common import ROOT, fail, say

NAMED_IN = ("*.yml", "*.md", "*.toml", "*.cff", "book/**/*.md", "notebooks/**/*.ipynb")


def main() -> None:
    """Replace the old address, which _config.yml tells."""
    new = re.fullmatch(r"https://github\.com/([\w.-]+/([\w.-]+?))(\.git)?/?", sys.argv[-1])
    if new is None:
        fail(f"{sys.argv[-1]!r} is no address that Colab opens: https://github.com/OWNER/NAME")
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    old = config["repository"]["url"].removeprefix("https://github.com/")
    for path in sorted({path for pattern in NAMED_IN for path in ROOT.glob(pattern)}):
        text = path.read_text(encoding="utf-8")
        changed = re.sub(rf"(github(?:\.com)?/){re.escape(old)}(?![\w-])", rf"\g<1>{new[1]}", text)
        changed = changed.replace(f"\ncd {old.split('/')[1]}\n", f"\ncd {new[2]}\n")
        if changed != text:
            path.write_text(changed, encoding="utf-8")
            say(f"changed {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
