"""Commands shown in README and docs exist, and so do their flags."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import re
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_COMMAND = re.compile(r"-m (bench[.\w]*)((?: [^#`|\n]*)?)")
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


@cache
def flags(module: str, subcommand: str) -> frozenset[str]:
    """What `python -m MODULE [SUBCOMMAND] --help` names."""
    arguments, printed = sys.argv, io.StringIO()
    sys.argv = [module, *filter(None, [subcommand]), "--help"]
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            importlib.import_module(module).main()
    finally:
        sys.argv = arguments
    return frozenset(_FLAG.findall(printed.getvalue()))


def commands(page: Path) -> list[tuple[str, str, set[str]]]:
    """Module, first word and flags of each command of a page."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    found = []
    for module, rest in _COMMAND.findall(text):
        words = re.sub(r'"[^"]*"', "", rest).split()
        found.append((module, words[0] if words else "", set(_FLAG.findall(rest))))
    return found


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.name)
def test_commands_and_flags_exist(page, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    wrong = []
    for module, word, used in commands(page):
        subcommand = word if module == "bench.check" and word.isalpha() else ""
        if used and (unknown := used - flags(module, subcommand) - {"--help"}):
            wrong.append(f"{module} {subcommand}: {', '.join(sorted(unknown))}")
        elif not used:
            assert importlib.util.find_spec(module), module
    assert wrong == []
