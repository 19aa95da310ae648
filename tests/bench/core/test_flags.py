"""Messages name flags that exist: every `--flag` in a sentence of the code is an option of some command."""

import ast
import dataclasses
import importlib
import re
import typing
from pathlib import Path

ROOT = Path(__file__).parents[3]
COMMANDS = ["run", "evaluate", "report", "prepare", "probe", "status", "check", "methods"]
COMMANDS += [
    f"benchmark.{part}" for part in ("data", "gpu", "growth", "metrics", "network", "report", "steps")
]
OF_OTHERS = {"--help", "--create-dirs", "--editable", "--mode", "--nproc-per-node"}


def flags(options):
    """Of a command's dataclass, its groups and subcommands."""
    found = set()
    if dataclasses.is_dataclass(options):
        hints = typing.get_type_hints(options)
        for field in dataclasses.fields(options):
            inner = flags(hints[field.name])
            found |= inner or {f"--{field.name.replace('_', '-')}"}
    for part in typing.get_args(options):
        found |= flags(part)
    return found


def sentences(path):
    """The texts in a file that have several words, but for docstrings: (line, text)."""
    tree = ast.parse(path.read_text())
    said_of_itself = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)
    }  # docstrings, and the help of options
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and " " in text.strip() and id(node) not in said_of_itself:
            yield node.lineno, text


def test_every_flag_in_a_message_exists():
    known = set(OF_OTHERS)
    for command in COMMANDS:
        module = importlib.import_module(f"bench.{command}")
        known |= flags(getattr(module, "Options", None) or module.Report)
    assert {"--results", "--net-weights", "--table", "--guidance-scale"} <= known
    unknown = [
        f"{path.relative_to(ROOT)}:{line}: {flag}"
        for folder in ("bench", "methods", "backbones")
        for path in (ROOT / folder).rglob("*.py")
        if "checks/faults/cluster" not in str(path)
        for line, text in sentences(path)
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", text)
        if flag not in known
    ]
    assert not unknown
