"""Suites of runs by name: a TOML file of the folder `bench/config/suites`, or one of the user's.

A suite defines what is compared and, if different from the defaults, how:

    description = "Each alignment depth"
    seed = [0, 1]                       # optional, as are data, process, backbone, [training], [protocol]
    teacher = "digits-vit"              # what "teacher" stands for; by default the data set's
    reference = "repa"                  # what bench.report compares with; by default the baseline

    [[grid]]                            # one or several
    method = ["baseline", "repa[depth=[1,2,4]]"]
    backbone = ["sit-ti"]               # by default that of the suite
    training = { steps = 500 }          # optional, instead of the suite's

    [quick]                             # the same comparison on the embedded data ...
    [full]                              # ... and for a cluster
    backbone = ["sit-l"]                # any of the above, replaced

A suite with the tables [quick] or [full] starts from `scales/quick.toml` or `scales/full.toml`, so that
several suites share runs. A suite without them is the same at every scale.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

import backbones
from bench.config.spec import Protocol, Training, renamed
from bench.core import grammar
from bench.core.errors import UserError, unknown

_FOLDER = Path(__file__).parent / "suites"
SCALES = ("quick", "full")
_MERGED = ("training", "protocol")  # setting by setting; all else is replaced whole

Names = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]


def _training(settings: dict[str, Any]) -> dict[str, Any]:
    Training.model_validate(settings, strict=True)
    return settings


def _protocol(settings: dict[str, Any]) -> dict[str, Any]:
    settings = renamed(settings)
    of_the_data_set = {"data": "", "reference": "", "feature_nets": ("pixels",)}
    Protocol.model_validate(of_the_data_set | settings, strict=True)
    return settings


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


class Grid(_Strict):
    """Methods and backbones, each with each."""

    method: Names
    backbone: Names | None = None  # None: the suite's
    training: Annotated[dict[str, Any], AfterValidator(_training)] = {}  # instead of the suite's


class Settings(_Strict):
    """What a suite may say, at every scale or at one; None leaves it to the rest."""

    description: str = ""
    data: str | None = None
    seed: Annotated[tuple[int, ...], Field(min_length=1)] | None = None
    process: str | None = None
    teacher: str | None = None
    reference: str | None = None
    backbone: Names | None = None
    grid: Annotated[tuple[Grid, ...], Field(min_length=1)] | None = None
    training: Annotated[dict[str, Any], AfterValidator(_training)] = {}
    protocol: Annotated[dict[str, Any], AfterValidator(_protocol)] = {}

    def over(self, below: Settings) -> Settings:
        """These settings, and those of `below` that they do not replace."""
        ours, theirs = (layer.model_dump(exclude_unset=True) for layer in (self, below))
        merged = {key: theirs.get(key, {}) | ours.get(key, {}) for key in _MERGED}
        return Settings.model_validate(theirs | ours | merged)


class Suite(Settings):
    """A suite file."""

    quick: Settings | None = None
    full: Settings | None = None


_TABLES: dict[str, type[BaseModel]] = {
    "grid": Grid,
    "training": Training,
    "protocol": Protocol,
    **dict.fromkeys(SCALES, Settings),
}


def names() -> tuple[str, ...]:
    """The suites of this project, by name; imports nothing."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def load(name: str, scale: str | None = None) -> Settings:
    """A suite, by name or by the path of a TOML file, at a scale: by default the first that it has.

    Every entry of its grid has methods and backbones. Raises UserError, naming file and key, for an unknown
    or unreadable suite, for what cannot be understood in it, and for a scale that it does not have.
    """
    path = _path(name)
    written = _read(path)
    scales = {known: found for known in SCALES if (found := getattr(written, known))}
    if scale is not None and scale not in scales:
        has = f"it has {', '.join(scales)}" if scales else "it has none"
        raise UserError(f"the suite {name} has no scale {scale}: {has}.")
    suite: Settings = Settings.model_validate(written.model_dump(exclude_unset=True, exclude=set(SCALES)))
    if scales:
        scale = scale or next(iter(scales))
        suite = scales[scale].over(suite.over(_read(_FOLDER / "scales" / f"{scale}.toml")))
    if suite.grid is None:
        raise UserError(f"the suite {name} compares nothing: give it a [[grid]] with method and backbone.")
    backbone = suite.backbone or (backbones.DEFAULT,)
    methods = [method for entry in suite.grid for text in entry.method for method in grammar.expand(text)]
    if suite.reference not in (None, *methods):
        raise unknown(f"reference of the suite {name}", suite.reference, methods)
    grid = tuple(entry.model_copy(update={"backbone": entry.backbone or backbone}) for entry in suite.grid)
    return suite.model_copy(update={"grid": grid})


def is_file(name: str) -> bool:
    """Whether a suite is given by the path of its file."""
    return Path(name).suffix.lower() == ".toml"


def _path(name: str) -> Path:
    path = Path(name).expanduser() if is_file(name) else _FOLDER / f"{name}.toml"
    if path.is_file():
        return path
    if is_file(name):
        raise UserError(f"there is no suite file {name}.")
    raise unknown("suite", name, names())


def _read(path: Path) -> Suite:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"the suite file {path} cannot be read: {error}.") from None
    try:
        return Suite.model_validate(_plain(content))
    except ValidationError as error:
        raise _fault(path, error) from None


def _plain(value: Any) -> Any:
    """TOML as the model's types: tuples for lists, and 1e3 as the whole number that it is."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return tuple(map(_plain, value))
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _fault(path: Path, error: ValidationError) -> UserError:
    """The first fault of a suite file, by file and key."""
    first = error.errors()[0]
    *tables, key = (part for part in first["loc"] if not isinstance(part, int))
    model: type[BaseModel] = Suite
    for table in tables:
        model = _TABLES.get(str(table), model)
    where = f"the suite file {path}" + "".join(f", [{table}]" for table in tables)
    if first["type"] == "extra_forbidden":
        return unknown(f"key of {where}:", str(key), model.model_fields)
    if first["type"] == "missing":
        return UserError(f"{where} has no {key}.")
    if key == "grid" and first["type"] == "tuple_type":
        return UserError(f"{where}: write [[grid]], with two brackets, as there may be several.")
    reason = first["msg"].replace("tuple", "list, in brackets").replace("dictionary", f"table, [{key}]")
    return UserError(f"{where}: {key} = {first['input']!r} cannot be used: {reason}.")
