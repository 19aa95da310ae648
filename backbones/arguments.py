"""Training arguments that official checkpoints store beside their weights: family, path and prediction.

They stand in namespaces, dictionaries and lists at any place, or in text: a command line, JSON or YAML.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

FAMILIES = ("sit", "repa", "dit")
PATHS = {"linear": "linear", "gvp": "gvp", "cosine": "gvp", "vp": "vp"}  # as written -> ours
PREDICTIONS = {"velocity": "velocity", "v": "velocity", "noise": "noise", "eps": "noise", "epsilon": "noise"}
DEEPEST = 12  # levels of nested arguments that are searched
LONGEST = 1_000_000  # characters of a text that is searched
_OF_REPA = ("enc_type", "proj_coeff", "encoder_depth")
_OF_SIT = ("train_eps", "sample_eps")
_NAMES = ("model", "model_name", "name", "arch", "architecture", "backbone", "network", "model_type")
_MODEL = re.compile(r"(sit|dit)(-|$)")
# `--path-type GVP`, `"path_type": "GVP"`, `path_type: GVP`, `path_type=GVP`
_IN_TEXT = r"(?:^|[\s\"'{,-])%s[\"']?\s*[:=\s]\s*[\"']?([A-Za-z]+)"


class Argument(NamedTuple):
    """A value, by its name in lower case with underscores."""

    name: str
    value: Any


def is_mapping(value: Any) -> TypeGuard[Mapping[Any, Any]]:
    """`isinstance` for what is read from a file, whose keys and values may be anything."""
    return isinstance(value, Mapping)


def is_sequence(value: Any) -> TypeGuard[Sequence[Any]]:
    """Likewise of lists and tuples."""
    return isinstance(value, list | tuple)


def arguments(content: Any, level: int = 0) -> Iterator[Argument]:
    """All named values in a file, nested ones included."""
    if isinstance(content, argparse.Namespace):
        content = vars(content)
    if level > DEEPEST:
        return
    if is_mapping(content):
        for key, value in content.items():
            yield Argument(_snake(str(key)), value)
            yield from arguments(value, level + 1)
    elif is_sequence(content):
        if content and all(isinstance(value, str) for value in content):
            yield from _of_text(" ".join(content))
        for value in content if not hasattr(content, "_fields") else ():
            if not isinstance(value, str):
                yield from arguments(value, level + 1)
    elif isinstance(content, str):
        yield from _of_text(content)


def _of_text(text: str) -> Iterator[Argument]:
    """Path and prediction in a text, if it names known ones; prose may hold these words, too."""
    for name, known in (("path_type", PATHS), ("prediction", PREDICTIONS)):
        pattern = _IN_TEXT % name.replace("_", "[-_]")
        for found in re.finditer(pattern, text[:LONGEST], re.IGNORECASE | re.MULTILINE):
            if found[1].lower() in known:
                yield Argument(name, found[1])


def _snake(name: str) -> str:
    """`path-type` and `pathType` as `path_type`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).replace("-", "_").lower()


def families(found: list[Argument]) -> set[str]:
    """The families whose code may have stored these arguments."""
    names = {argument.name for argument in found}
    if names & {*_OF_REPA}:
        return {"repa"}
    possible = {*FAMILIES}
    for argument in found:
        named = argument.name in _NAMES and isinstance(argument.value, str)
        if named and (model := _MODEL.match(argument.value.lower())):
            # Forks of REPA call their models SiT, too.
            possible &= {"dit"} if model[1] == "dit" else {"sit", "repa"}
    if names & {*_OF_SIT} and "dit" not in possible:
        return {"sit"}
    return possible


def meanings(found: list[Argument], name: str, known: Mapping[str, str]) -> dict[str, str | None]:
    """The values of this name as written -> their meaning, None if it is not known."""
    told = dict.fromkeys(
        one.value.strip() for one in found if one.name == name and isinstance(one.value, str)
    )
    return {text: known.get(text.lower()) for text in told}
