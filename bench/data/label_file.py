"""Labels by file in `dataset.json`, the format of StyleGAN, EDM and REPA.

{"labels": [["00000/img00000000.png", 6], ...]}     null for images without classes
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from bench.core.errors import UserError
from bench.data.containers import Container

LABELS = "dataset.json"
MOST_CLASSES = 1_000_000


def read_labels(
    container: Container, images: Sequence[str], surprises: list[str]
) -> tuple[tuple[str, ...], dict[str, int]] | None:
    """Class names, and the label of each image that has one; None if there is no `dataset.json` with labels.

    Raises:
        UserError: if it cannot be read, or labels none of the images.
    """
    label: dict[str, int] = {}
    found, known = None, set(images)
    for file in sorted(key for key in container.files if key.rpartition("/")[2] == LABELS):
        entries = _entries(container, file)
        if entries is None:
            continue
        found = file
        folder = PurePosixPath(file).parent
        inside = [key for key in images if folder == PurePosixPath(".") or key.startswith(f"{folder}/")]
        if not entries:  # no labels: all images are of one class
            label |= dict.fromkeys(inside, 0)
            continue
        named = {str(folder / name): value for name, value in entries.items()}
        if all(name.endswith(".npy") for name in entries):  # REPA's latents, which have the images' numbers
            numbers = {_number(name): value for name, value in entries.items()}
            named = {key: numbers[_number(key)] for key in images if _number(key) in numbers}
        elif absent := sorted(named.keys() - set(inside)):
            which = f"{len(absent)}, such as {absent[0]}"
            surprises.append(f"labels in {file} of files that are no images: {which}")
        label = {key: value for key, value in named.items() if key in known} | label
    if found is None:
        return None
    if not label:
        raise UserError(f"{found} in {container.path} labels none of the images: repair or remove it.")
    return tuple(str(rank) for rank in range(max(label.values()) + 1)), label


def _entries(container: Container, file: str) -> dict[str, int] | None:
    """Names and labels of one file, none if it says `"labels": null`; None if it is of another kind."""
    try:
        content = json.loads(container.read(file))
    except UserError:
        raise
    except Exception as error:  # foreign bytes, perhaps compressed
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{file} in {container.path} cannot be read ({reason}): repair or remove it."
        ) from None
    if not isinstance(content, dict) or "labels" not in content:
        return None
    labels = content["labels"] or {}
    try:
        pairs = [
            (posixpath.normpath(str(name).replace("\\", "/")), label)
            for name, label in (labels.items() if isinstance(labels, dict) else labels)
        ]
    except (TypeError, ValueError):
        raise UserError(f"{file} in {container.path}: labels must be pairs of a file and a number.") from None
    entries: dict[str, int] = {}
    for name, label in pairs:
        if type(label) is not int or not 0 <= label < MOST_CLASSES:
            raise UserError(
                f"{file} in {container.path} gives {name} the label {label!r}: labels are whole numbers from "
                f"0 to {MOST_CLASSES - 1}."
            )
        if entries.setdefault(name, label) != label:
            raise UserError(
                f"{file} in {container.path} gives {name} two labels, {entries[name]} and {label}: repair it."
            )
    return entries


def _number(key: str) -> tuple[str, str]:
    """The folder and the digits of a file: `00000/img00000012.png` -> `("00000", "00000012")`."""
    path = PurePosixPath(key)
    return path.parent.name, re.sub(r"\D", "", path.stem)
