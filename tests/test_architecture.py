"""docs/architecture.md against the code: imports point down its floors, and its walks name each file once."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def floors() -> dict[str, tuple[int, int]]:
    """Room -> (floor, place on it), as the page draws them."""
    block = re.search(r"```text\n(.*?)```", PAGE, re.DOTALL)
    assert block is not None
    rooms = {}
    for line in block[1].splitlines():
        floor, *names = line.split()
        rooms |= {name: (int(floor), place) for place, name in enumerate(names)}
    return rooms


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2]) if module.startswith("bench.") else module.split(".")[0]


def imports(path: Path) -> Iterator[str]:
    """Modules of the project that a file imports anywhere, but for annotations."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{name.name}" for name in node.names)


def modules() -> Iterator[tuple[str, Path]]:
    for folder in ("bench", "methods", "backbones"):
        for path in (ROOT / folder).rglob("*.py"):
            yield ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), path


def test_imports_point_down():
    rooms = floors()
    wrong = set()
    for module, path in modules():
        own = room_of(module)
        for name in imports(path):
            other = room_of(name)
            if other.split(".")[0] not in ("bench", "methods", "backbones") or other in (own, "bench"):
                continue
            (floor, place), (their_floor, their_place) = rooms[own], rooms[other]
            if their_floor > floor or (their_floor == floor and their_place > place):
                wrong.add(f"{module} imports {name}")
    assert not wrong, sorted(wrong)


def test_no_file_imports_itself_through_others():
    files = dict(modules())
    graph: dict[str, set[str]] = {}
    for module, path in files.items():
        tree = {name if name in files else name.rpartition(".")[0] for name in imports(path)}
        graph[module] = {name for name in tree if name in files and name not in ("bench", module)}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


def test_the_page_draws_every_room():
    found = {room_of(module) for module, _ in modules()} - {"bench"}
    assert found == set(floors())


def test_the_walks_name_each_file_once():
    named = re.findall(r"`((?:bench|methods|backbones)/[\w/]+\.py)`", PAGE)
    assert len(named) > 40
    assert sorted({name for name in named if named.count(name) > 1}) == []
    assert [name for name in named if not (ROOT / name).is_file()] == []
