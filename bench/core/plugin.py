"""Classes in Python files of the user: methods, backbones, data sets, encoders, rewards, samplers, metrics.

Each such file defines one subclass of the base class of its kind, whose annotated fields are its options, and
is named by its path wherever a name of that kind is expected: `path/to/my_method.py[weight=0.5]`.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from functools import lru_cache
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from bench.core import grammar
from bench.core.errors import UserError
from bench.core.files import json_hash, sha256

T = TypeVar("T")

_PROJECT = Path(__file__).parents[2]
_neighbours: set[str] = set()  # modules that files have imported from their own folders


def is_file(text: str) -> bool:
    """Whether a name, with or without options, is the path of a Python file."""
    return text.partition("[")[0].strip("\"' ").lower().endswith(".py")


def load(name: str, base: type[T], kind: str) -> type[T]:
    """The one subclass of `base` that the Python file, or the module, of that name defines.

    A file is executed once per content, its own and that of the files in its folder that it imports, so that
    equal names give equal classes.

    Args:
        name: path of a file, `path/to/mine.py`, or dotted name of a module.
        base: base class of this kind.
        kind: noun for error messages, such as "method".

    Raises:
        UserError: there is no such file, it fails on import, or it does not define exactly one subclass.
    """
    if is_file(name):
        path = Path(name).expanduser()
        if not path.is_file():
            raise UserError(f"there is no {kind} file '{path}'.")
        module = _execute(path, source(path), kind)
    else:
        module = importlib.import_module(name)
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, base) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise UserError(
            f"'{name}' must define one subclass of {base.__module__}.{base.__name__}, it defines "
            f"{len(found)}."
        )
    return found[0]


def configured(text: str, base: type[T], kind: str) -> T:
    """An instance of the class that `load` finds for `path/to/mine.py[option=value,...]`.

    Raises:
        UserError: as `load`, and for an unknown option or a value of another type.
    """
    name, options = grammar.split(text)
    return grammar.configure(load(name, base, kind), options, f"{kind} {name}")


def identity(text: str, base: type, kind: str) -> str:
    """`mine.py@12ab34cd[option=value,...]`: the file's name, its content, and every option with its value.

    The same wherever the file lies. Raises UserError as `configured`.
    """
    path = Path(grammar.split(text)[0]).expanduser()
    found = configured(text, base, kind)
    return grammar.resolved(f"{path.name}@{source(path)}", found)


def source(path: Path) -> str:
    """8 hex digits of the content of a Python file and of the files in its folder that it imports.

    Raises:
        UserError: if one cannot be read or parsed.
    """
    files: dict[Path, str] = {}
    waiting = [path]
    while waiting:
        file = waiting.pop()
        try:
            files[file] = sha256(file)
            tree = ast.parse(file.read_bytes())
        except OSError as error:
            raise UserError(f"{file} cannot be read: {error.strerror}.") from None
        except (SyntaxError, ValueError) as error:
            raise UserError(f"{file} is not valid Python: {error}.") from None
        for top in _imported(tree) - {"bench", "methods", "backbones"}:
            neighbours = [path.parent / f"{top}.py", *(path.parent / top).glob("**/*.py")]
            waiting += [other for other in neighbours if other.is_file() and other not in files]
    if len(files) == 1:
        return files[path][:8]
    return json_hash({str(file.relative_to(path.parent)): digest for file, digest in files.items()})


def _imported(tree: ast.Module) -> set[str]:
    """The top-level modules and packages that a file imports."""
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
    return {name.partition(".")[0] for name in names}


@lru_cache
def _execute(path: Path, _source: str, kind: str) -> ModuleType:
    """The module of a file, which may import files of its folder, as a script may."""
    name, folder = f"{kind.replace(' ', '_')}_file_{path.stem}", path.resolve().parent
    spec = importlib.util.spec_from_loader(name, SourceFileLoader(name, str(path)))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their annotations up here
    for neighbour in _neighbours:  # of another folder, maybe, under the same name
        sys.modules.pop(neighbour, None)
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"the {kind} file '{path}' fails on import: {error!r}.") from error
    finally:
        sys.path.remove(str(folder))
        _neighbours.update(added for added in sys.modules.keys() - before if _lies_in(folder, added))
    return module


def _lies_in(folder: Path, module: str) -> bool:
    """Whether a module, or the package that it belongs to, lies in `folder` and not in this project."""
    top = module.partition(".")[0]
    file = getattr(sys.modules.get(top), "__file__", None)
    return bool(file) and Path(file).parent in (folder, folder / top) and folder != _PROJECT
