"""Alignment strategies, one small file each. A file added to this folder is found by its name.

Names are shown with hyphens, files have underscores: `va-repa` is `va_repa.py`; both spellings are accepted.
"""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent
_NO_METHODS = ("__init__", "__main__", "base", "cards", "composition")


def names() -> tuple[str, ...]:
    """The names of all methods in this folder, sorted; imports nothing."""
    files = (path.stem for path in _FOLDER.glob("*.py") if path.stem not in _NO_METHODS)
    return tuple(sorted(map(shown, files)))


def shown(name: str) -> str:
    """A method's name with hyphens, `va_repa` -> `va-repa`; the path of a file is returned unchanged."""
    return name if name.lower().endswith(".py") else name.replace("_", "-")
