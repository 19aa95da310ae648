"""The grammar by which things are named everywhere: `name[option=value,...]`.

The same text is typed on the command line, written in suite files and printed in tables, so what is
printed can be typed. A list makes a grid: `repa[weight=[0.5,1.0]]` stands for two methods.
"""

from __future__ import annotations

import re
from itertools import product
from typing import Any, TypeVar

from bench.core.errors import UserError, unknown

T = TypeVar("T")

_NAMED = re.compile(r"^(?P<name>[^\[\]]+)(?:\[(?P<options>.*)\])?$")
_COMMA = re.compile(r",(?![^\[]*\])")  # a comma that is not inside a list


def split(text: str) -> tuple[str, dict[str, str]]:
    """`"repa[weight=1.0,depth=4]"` -> `("repa", {"weight": "1.0", "depth": "4"})`; values stay text.

    Raises UserError where the brackets or an option cannot be read.
    """
    match = _NAMED.match(text.strip())
    if not match:
        raise UserError(f"cannot read '{text}': write name[option=value,...].")
    options: dict[str, str] = {}
    for item in _COMMA.split(match["options"] or ""):
        key, equals, value = item.partition("=")
        if not item.strip():
            continue
        if not equals or not key.strip() or not value.strip():
            raise UserError(f"cannot read the option '{item.strip()}' in '{text}': write option=value.")
        options[key.strip()] = value.strip()
    return match["name"].strip(), options


def join(name: str, options: dict[str, Any]) -> str:
    """The inverse of `split`: options in alphabetical order, none -> the bare name."""
    inside = ",".join(f"{key}={_text(options[key])}" for key in sorted(options))
    return f"{name}[{inside}]" if inside else name


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ":".join(map(_text, value))
    return str(value)


def expand(text: str) -> list[str]:
    """One name per point of the grid that the lists in `text` span, in the order written."""
    name, options = split(text)
    axes = [
        [item.strip() for item in value.strip("[]").split(",")] if value.startswith("[") else [value]
        for value in options.values()
    ]
    return [join(name, dict(zip(options, point, strict=True))) for point in product(*axes)]


def configure(cls: type[T], options: dict[str, str], where: str) -> T:
    """`cls(**options)` with every value read as the type its field declares (a dataclass, by pydantic).

    `a:b` reads as a tuple where the field is one. `where` names the owner in error messages.
    Raises UserError for an unknown option (with the nearest) and for a value of another type.
    """
    from dataclasses import fields
    from typing import get_origin, get_type_hints

    from pydantic import TypeAdapter, ValidationError

    hints = get_type_hints(cls)
    known = {field.name: hints[field.name] for field in fields(cls) if field.init}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in options.items():
        if key not in known:
            raise unknown(f"option of {where}", key, known)
        nothing = value.lower() == "none"
        values[key] = None if nothing else value.split(":") if get_origin(known[key]) is tuple else value
        try:
            values[key] = TypeAdapter(known[key]).validate_python(values[key])
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise UserError(f"option {key}={value} of {where} cannot be used: {reason}.") from None
    try:
        return cls(**values)
    except ValueError as error:
        raise UserError(f"{where} with {join('', options)} cannot be used: {error}") from None
