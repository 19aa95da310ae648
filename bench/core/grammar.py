"""Grammar of names with options: `name[option=value,...]`.

The same text is typed on the command line, written in suite files and printed in tables, so whatever is
printed can be typed. A list spans a grid: `repa[weight=[0.5,1.0]]` stands for two methods. A value may be a
name with brackets itself. A quoted value may contain any character, `folder[path="a,b"]`; inside quotes, a
doubled quote stands for one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, TypeVar, get_origin

from bench.core.errors import UserError, unknown

T = TypeVar("T")

_QUOTED = r""""(?:[^"]|"")*"|'(?:[^']|'')*'"""
# Elsewhere a quote is an ordinary character, as in /home/o'brien.
_QUOTED_VALUE = re.compile(rf"((?:^|[\[,=+])\s*)({_QUOTED})")


def split(text: str) -> tuple[str, dict[str, str]]:
    """Split `"repa[weight=1.0,depth=4]"` into `("repa", {"weight": "1.0", "depth": "4"})`.

    A sum, `"repa[weight=1.0]+layersync"`, is a name without options.

    Raises:
        UserError: if the brackets or an option cannot be parsed.
    """
    if len(parts := summands(text)) > 1:
        return "+".join(parts), {}
    name, options = _parts(text)
    return _unquoted(name), {key: _unquoted(value) for key, value in options.items()}


def summands(text: str) -> list[str]:
    """Split at each "+" outside brackets: `"repa[encoder=a+b]+sra"` -> `["repa[encoder=a+b]", "sra"]`.

    Raises:
        UserError: if a name is missing on either side of one, or brackets do not match.
    """
    found = [part.strip() for part in _divided(text, "+")]
    if not all(found):
        raise UserError(f"cannot read '{text}': write a name on both sides of every +.")
    return found


def join(name: str, options: Mapping[str, Any]) -> str:
    """The inverse of `split`, with options in alphabetical order.

    A name or value is quoted if it could not be parsed otherwise.
    """
    values = {key: _text(options[key]) for key in sorted(options)}
    inside = ",".join(
        f"{key}={value if _is_plain(value) else _quoted(value)}" for key, value in values.items()
    )
    if not _is_read_as_name(name, alone=not inside):
        name = _quoted(name)
    return f"{name}[{inside}]" if inside else name


def expand(text: str) -> list[str]:
    """One name for each point of the grid that the lists in `text` span, in the order written.

    Raises:
        UserError: as `split`, and for an empty list.
    """
    if len(parts := summands(text)) > 1:
        return ["+".join(point) for point in product(*map(expand, parts))]
    name, options = _parts(text)
    axes = []
    for key, value in options.items():
        items = _pieces(value[1:-1]) if value.startswith("[") and value.endswith("]") else [value]
        if not items:
            raise UserError(f"the list of {key} in '{text}' is empty.")
        axes.append([_unquoted(item) for item in items])
    return [join(_unquoted(name), dict(zip(options, point, strict=True))) for point in product(*axes)]


def _parts(text: str) -> tuple[str, dict[str, str]]:
    """Name and options, quoted as written."""
    text = text.strip()
    name, _, inside = _masked(text).partition("[")
    if not name.strip() or "]" in name or (inside and not inside.endswith("]")) or text.endswith("["):
        raise UserError(f"cannot read '{text}': write name[option=value,...].")
    options: dict[str, str] = {}
    for item in _pieces(text[len(name) + 1 : -1]):
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not key or not value:
            raise UserError(f"cannot read the option '{item}' in '{text}': write option=value.")
        if key in options:
            raise UserError(f"'{text}' gives the option {key} twice.")
        options[key] = value
    return text[: len(name)].strip(), options


def _pieces(text: str) -> list[str]:
    """Split `text` at commas outside brackets and quotes; without empty pieces."""
    return [piece for part in _divided(text, ",") if (piece := part.strip())]


def _divided(text: str, separator: str) -> list[str]:
    """Split `text` at a separator outside brackets and quotes. Raises UserError if brackets do not match."""
    depth, start, pieces = 0, 0, []
    for place, sign in enumerate(_masked(text) + separator):
        depth += (sign == "[") - (sign == "]")
        if depth < 0:
            break
        if sign == separator and depth == 0:
            pieces.append(text[start:place])
            start = place + 1
    if depth != 0:
        raise UserError(
            f"cannot read '{text}': its brackets do not match; put a value that has one in quotes."
        )
    return pieces


def _masked(text: str) -> str:
    """`text` with quoted parts replaced by as many null characters."""
    return _QUOTED_VALUE.sub(lambda found: found[1] + "\0" * len(found[2]), text)


def _unquoted(value: str) -> str:
    if not re.fullmatch(_QUOTED, value):
        return value
    return value[1:-1].replace(2 * value[0], value[0])


def _is_plain(value: str) -> bool:
    """Whether `value` can be written after `option=` without quotes."""
    if value != value.strip() or value.startswith("[") or set("\"'\0") & set(value):
        return False
    try:
        return _pieces(value) == [value]
    except UserError:  # brackets that do not match
        return False


def _is_read_as_name(name: str, alone: bool) -> bool:
    """Whether `name` is read as it stands: a plain word, or where it stands `alone` a sum."""
    try:
        if len(summands(name)) > 1:
            return alone and split(name) == (name, {}) and expand(name) == [name]
    except UserError:
        return False
    return _is_plain(name) and "[" not in name


def _quoted(value: str) -> str:
    quote = "'" if '"' in value and "'" not in value else '"'
    return quote + value.replace(quote, 2 * quote) + quote


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, tuple):
        return ":".join(map(_text, value))
    return str(value)


def configure(cls: type[T], options: dict[str, str], where: str) -> T:
    """`cls(**options)`, with every value converted to the type of its field (by pydantic).

    `a:b` is a tuple if the field is one, `none` is None, and a leading `~` the home folder.

    Args:
        cls: a dataclass.
        options: values as text.
        where: the owner of the options, for error messages.

    Raises:
        UserError: an unknown option (with the nearest one), a value of another type, or a number that is not
            finite.
    """
    from pydantic import ValidationError

    types = _types(cls)
    values: dict[str, Any] = {}
    for key, value in options.items():
        if key not in types:
            raise unknown(f"option of {where}", key, types)
        nothing = value.lower() == "none"
        values[key] = (
            None if nothing else value.split(":") if get_origin(types[key]) is tuple else _home(value)
        )
        try:
            values[key] = _read(values[key], types[key])
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise UserError(f"option {key}={value} of {where} cannot be used: {reason}.") from None
    try:
        return cls(**values)
    except ValueError as error:
        chosen = ", ".join(f"{key}={value}" for key, value in options.items())
        raise UserError(f"{where} with {chosen} cannot be used: {error}") from None


def resolved(name: str, configured: Any) -> str:
    """The name with all options of a configured dataclass, so that a changed default changes it.

    Options that the class lists as `added` since it first identified runs are left out at their default.
    """
    cls = type(configured)
    values = {key: _read(getattr(configured, key), kind) for key, kind in _types(cls).items()}
    for key in getattr(cls, "added", ()):
        if values[key] == getattr(cls, key):
            del values[key]
    return join(name, values)


def _types(cls: type) -> dict[str, Any]:
    from dataclasses import fields
    from typing import get_type_hints

    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in fields(cls) if field.init}  # type: ignore[arg-type]


def _read(value: Any, kind: Any) -> Any:
    """`value` converted to a type. Raises pydantic's ValidationError."""
    return _adapter(kind).validate_python(value)


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import ConfigDict, TypeAdapter

    return TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False))


def _home(value: str) -> str:
    return str(Path(value).expanduser()) if value.startswith("~") else value
