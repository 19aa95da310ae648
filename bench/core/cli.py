"""Command lines: one parser for all commands, and common types of options."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin

import tyro

from bench.core.errors import UserError

if TYPE_CHECKING:
    from pydantic import BaseModel

T = TypeVar("T")
CONSOLE = "alignment-bench"  # the console script that has all commands


def option(help: str | None = None, metavar: str | None = None) -> Any:
    """Annotation of an option whose default is not shown in the help."""
    return tyro.conf.arg(help=help, metavar=metavar, help_behavior_hint="")


OptionalInt = Annotated[int | None, option(metavar="N")]
OptionalFloat = Annotated[float | None, option(metavar="X")]
OptionalStr = Annotated[str | None, option(metavar="NAME")]
OptionalPath = Annotated[Path | None, option(metavar="PATH")]
Device = Annotated[
    Literal["auto", "cpu", "cuda"], tyro.conf.arg(help="auto: a CUDA device if the machine has one")
]
Results = Annotated[
    Path, tyro.conf.arg(metavar="PATH", help="folder of all results; a run lies in RESULTS/SUITE/RUN")
]


def _interval(words: list[str]) -> tuple[float, float]:
    ends = [_finite(end) for word in words for end in word.split(":")]
    if len(ends) != 2:
        raise ValueError(f"expected two numbers, LOW HIGH or LOW:HIGH, not {' '.join(words)}")
    return ends[0], ends[1]


_INTERVAL = tyro.constructors.PrimitiveConstructorSpec(
    nargs=(1, 2),
    metavar="LOW HIGH",
    instance_from_str=_interval,
    is_instance=lambda value: value is None or isinstance(value, tuple),
    str_from_instance=lambda value: [str(end) for end in value or ()],
)
Interval = Annotated[tuple[float, float] | None, _INTERVAL, option()]


def parse(options: type[T], description: str | None, renamed: Mapping[str, str] = MappingProxyType({})) -> T:
    """Parse the command line; `~` is expanded in paths. Exits with status 2 for an unknown option.

    Args:
        options: a dataclass; groups of options are nested dataclasses, without prefix in their flags.
        description: text at the top of `--help`.
        renamed: flags of an earlier version that are still accepted, old -> new.
    """
    module = options.__module__
    if module == "__main__" and (spec := sys.modules[module].__spec__):
        module = spec.name
    console = sys.argv[0].startswith(f"{CONSOLE} ")
    words = [_renamed(word, renamed) for word in sys.argv[1:]]
    found = tyro.cli(
        options,
        prog=sys.argv[0] if console else f"python -m {module}",
        description=description,
        args=words,
        config=_CONFIG,
        registry=_REGISTRY,
    )
    return _expanded(found)


def write_completion(commands: Mapping[str, type], words: Sequence[str]) -> NoReturn:
    """Answer tyro's `--tyro-print-completion SHELL` or `--tyro-write-completion SHELL FILE` for the console
    script with these commands, and exit.

    Raises UserError for another shell, and for a file that cannot be written.
    """
    if len(words) < 2 or words[1] not in _SHELLS:
        raise UserError(f"{words[0]}: name a shell, one of {', '.join(_SHELLS)}.")
    parts = [Annotated[kind, tyro.conf.subcommand(name)] for name, kind in commands.items()]
    kind: Any = Union[tuple(parts)]  # noqa: UP007
    try:
        tyro.cli(kind, prog=CONSOLE, args=words, config=_CONFIG, registry=_REGISTRY)
    except OSError as error:
        raise UserError(f"{words[-1]} cannot be written: {error.strerror or error}.") from None
    raise AssertionError("tyro exits")


_SHELLS = ("bash", "zsh", "fish", "tcsh")  # that tyro completes in
_CONFIG = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
_METAVARS: dict[Any, str] = {int: "N", float: "X", str: "NAME", Path: "PATH"}
_REGISTRY = tyro.constructors.ConstructorRegistry()


@_REGISTRY.primitive_rule
def _plain(
    type_info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec | None:
    """Rule for numbers, names and paths, and lists of them: short placeholders in the help, no NaN."""
    kind, several = type_info.type, get_origin(type_info.type) is tuple
    if several and get_args(kind)[1:] == (...,):
        kind = get_args(kind)[0]
    if kind not in _METAVARS:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs="*" if several else 1,
        metavar=_METAVARS[kind] + "..." * several,
        instance_from_str=lambda words: (
            tuple(map(_reader(kind), words)) if several else _reader(kind)(words[0])
        ),
        is_instance=lambda value: isinstance(value, tuple if several else kind),
        str_from_instance=lambda value: list(map(str, value)) if several else [str(value)],
    )


def _reader(kind: Any) -> Callable[[str], Any]:
    return _finite if kind is float else kind


def _finite(word: str) -> float:
    if not math.isfinite(number := float(word)):
        raise ValueError(f"{word} is not a finite number")
    return number


def _renamed(word: str, renamed: Mapping[str, str]) -> str:
    """A word of the command line, with a renamed flag replaced."""
    flag, equals, value = word.partition("=")
    return renamed.get(flag.replace("_", "-"), flag) + equals + value if flag.startswith("--") else word


def _expanded(options: Any) -> Any:
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    expanded = {
        name: value.expanduser()
        if isinstance(value, Path)
        else _expanded(value)
        if dataclasses.is_dataclass(value)
        else value
        for name, value in values.items()
    }
    return dataclasses.replace(options, **expanded)


def _metavar(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return "{" + ",".join(map(str, get_args(annotation))) + "}"
    return _METAVARS.get(annotation, "NAME...")


def options_of(model: type[BaseModel], *, without: Collection[str] = (), **types: Any) -> type:
    """A dataclass with an option for every described field of a pydantic model; None, or False of a flag: not
    given.

    Ranges are checked by the model.

    Args:
        model: the pydantic model.
        without: fields that are not options.
        types: annotations of fields, replaced or added.
    """
    kinds = {
        name: Annotated[bool, option(field.description)]
        if field.annotation is bool
        else Annotated[field.annotation | None, option(field.description, _metavar(field.annotation))]
        for name, field in model.model_fields.items()
        if field.description and name not in without
    }
    for name, kind in types.items():
        field = model.model_fields.get(name)
        kinds[name] = Annotated[kind, option(field.description)] if field else kind
    fields = [
        (name, kind, dataclasses.field(default=False if get_args(kind)[0] is bool else None))
        for name, kind in kinds.items()
    ]
    return dataclasses.make_dataclass(f"{model.__name__}Options", fields, frozen=True)
