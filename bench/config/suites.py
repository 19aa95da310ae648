"""Experiments by name: a TOML file of this folder.

A suite says what is compared and, where it departs from the defaults, how:

    description = "Each alignment depth"
    seed = [0, 1]                       # optional, as are data, process, backbone, [training], [protocol]

    [[grid]]                            # one or several
    method = ["baseline", "repa[depth=[1,2,4]]"]
    backbone = ["sit-ti"]               # where it is not given, that of the suite

    [quick]                             # the same experiment for the data at hand ...
    [full]                              # ... and for a cluster
    backbone = ["sit-l"]                # any of the above, instead of what stands there

A suite with the tables [quick] or [full] starts from `scales/quick.toml` or `scales/full.toml`, so that runs
which several suites ask for are the same runs. A suite without them is the same at every scale.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from bench.core.errors import UserError, unknown

_FOLDER = Path(__file__).parents[1] / "suites"
SCALES = ("quick", "full")
_MERGED = ("training", "protocol")  # setting by setting; all else is replaced whole
_KEYS = ("description", "data", "seed", "process", "backbone", "grid", *_MERGED)


def names() -> tuple[str, ...]:
    """The suites of this folder; imports nothing."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def load(name: str, scale: str | None = None) -> dict[str, Any]:
    """A suite, by name or by the path of a TOML file, at a scale: by default the first that it has.

    Every table of its "grid" has "method" and "backbone". Raises UserError for an unknown or unreadable
    suite, and for a scale that it does not have.
    """
    path = Path(name) if name.endswith(".toml") else _FOLDER / f"{name}.toml"
    if not path.is_file():
        raise unknown("suite", name, names())
    written = _read(path)
    tables = {known: written.pop(known) for known in SCALES if known in written}
    for key in written | {key: None for table in tables.values() for key in table}:
        if key not in _KEYS:
            raise unknown(f"key of the suite {name}", key, (*_KEYS, *SCALES))
    if scale is not None and scale not in tables:
        has = f"it has {', '.join(tables)}" if tables else "it has none"
        raise UserError(f"the suite {name} has no scale {scale}: {has}.")
    suite = written
    if tables:
        scale = scale or next(iter(tables))
        suite = _over(_read(_FOLDER / "scales" / f"{scale}.toml"), written, tables[scale])
    if "grid" not in suite:
        raise UserError(f"the suite {name} compares nothing: give it a [[grid]] with method and backbone.")
    for grid in suite["grid"]:
        grid.setdefault("backbone", suite.get("backbone", ["sit-ti"]))
        if "method" not in grid:
            raise UserError(f"a [[grid]] of the suite {name} has no method.")
    return suite


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"the suite file {path} cannot be read: {error}.") from None


def _over(*layers: dict[str, Any]) -> dict[str, Any]:
    """The layers as one, what is later over what is earlier."""
    merged: dict[str, Any] = {}
    for layer in layers:
        parts = {key: merged.get(key, {}) | layer[key] for key in _MERGED if key in layer}
        merged |= layer | parts
    return merged
