"""Alignment strategies, one small file each. A file dropped into this folder is found by its name.

Names are shown with hyphens, files have underscores: `va-repa` is `va_repa.py`; both spellings are read.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

    from methods.base import Method

_FOLDER = Path(__file__).parent


_NO_METHODS = ("__init__", "__main__", "base", "cards", "composition")
_neighbours: set[str] = set()  # modules that method files have imported from their own folders


def names() -> tuple[str, ...]:
    """The methods of this folder, by name; imports nothing."""
    files = (path.stem for path in _FOLDER.glob("*.py") if path.stem not in _NO_METHODS)
    return tuple(sorted(map(shown, files)))


def is_file(name: str) -> bool:
    """Whether a method is named by the path of a Python file."""
    return name.lower().endswith(".py")


def shown(name: str) -> str:
    """A method's name with hyphens, `va_repa` -> `va-repa`; the path of a file stays as it is."""
    return name if is_file(name) else name.replace("_", "-")


def load(name: str) -> type[Method]:
    """The method class of a name of this folder, or of the path of a Python file.

    Raises ValueError if there is no such method, or the file does not define exactly one.
    """
    if is_file(name):
        module = _import_file(Path(name).expanduser())
    elif shown(name) in names():
        module = importlib.import_module(f"methods.{name.replace('-', '_')}")
    else:
        raise ValueError(f"no method '{name}'; there are {', '.join(names())}")
    return _only_method(module.__name__, vars(module), name)


def _import_file(path: Path) -> ModuleType:
    """The module of a method file, which may import its neighbours as a script may."""
    if not path.is_file():
        raise ValueError(f"there is no method file '{path}'")
    name, folder = f"methods_from_file_{path.stem}", path.resolve().parent
    spec = importlib.util.spec_from_loader(name, SourceFileLoader(name, str(path)))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclass options look their annotations up here
    for neighbour in _neighbours:  # of another folder, maybe, under the same name
        sys.modules.pop(neighbour, None)
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"the method file '{path}' fails on import: {error!r}") from error
    finally:
        sys.path.remove(str(folder))
        _neighbours.update(added for added in sys.modules.keys() - before if _lies_in(folder, added))
    return module


def _lies_in(folder: Path, module: str) -> bool:
    """Whether a module, or the package that it belongs to, lies in `folder` and is not of this project."""
    top = module.partition(".")[0]
    file = getattr(sys.modules.get(top), "__file__", None)
    return bool(file) and Path(file).parent in (folder, folder / top) and folder != _FOLDER.parent


def _only_method(module_name: str, namespace: dict[str, object], name: str) -> type[Method]:
    from methods.base import Method

    found = [
        value
        for value in namespace.values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module_name
    ]
    if len(found) != 1:
        raise ValueError(f"'{name}' must define one subclass of methods.base.Method, it defines {len(found)}")
    return found[0]
