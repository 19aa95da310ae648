"""Which files of a source are images of the data set, and why the others are not.

No file is dropped silently: every reason is listed with its files, and unexpected ones are to be confirmed.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence

from bench.core.errors import UserError
from bench.data.containers import DEAD, LOOP, Container
from bench.data.decoding import SUFFIXES
from bench.data.label_file import LABELS

_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst")
_NOTES = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".md", ".html", ".yaml", ".yml", ".log", ".pdf")
_SYSTEM = {"__MACOSX", "Thumbs.db", "desktop.ini"}
_GRID = re.compile(r"step-\d{8}\.png")
HIDDEN, GRIDS, LISTS, NESTED, UNLABELLED, NO_PART, BESIDE, NO_CLASS = (
    "hidden and system files",
    "sample grids of runs",
    "lists and notes",
    "archives inside (unpack them first)",
    f"images without a label in {LABELS}",
    "images in neither train nor a reference part",
    "images next to the class folders",
    "images of the reference part of no class of the training part",
)
_EXPECTED = {HIDDEN, GRIDS, LISTS, DEAD, LOOP}  # reasons that need no confirmation
OTHER = "files that are no images by their suffix"
MANY = 0.1  # fraction of the number of images; more ignored files are surprising


def images_in(container: Container) -> tuple[list[str], dict[str, list[str]]]:
    """The keys of all images, sorted, and of all other files by the reason why they are ignored.

    Raises:
        UserError: if there are no images.
    """
    images = []
    passed_over = {why: list(keys) for why, keys in container.passed_over.items()}
    for key in container.files:
        why = _no_image(container, key)
        if why is None:
            images.append(key)
        else:
            passed_over.setdefault(why, []).append(key)
    if not images:
        others = "; ".join(skipped(passed_over)) or "it is empty"
        raise UserError(f"there are no images in {container.path}: {others}.")
    return images, passed_over


def _no_image(container: Container, key: str) -> str | None:
    """Why a file is not an image of the data set; None if it is one."""
    names, suffix = key.split("/"), posixpath.splitext(key)[1].lower()
    if is_hidden(names):
        return HIDDEN
    if suffix in SUFFIXES:
        return GRIDS if _GRID.fullmatch(names[-1]) and _in_run(container, names) else None
    if suffix in _ARCHIVES:
        return NESTED
    return LISTS if suffix in _NOTES else f"{OTHER} '{suffix}'"


def is_hidden(names: Sequence[str]) -> bool:
    """Whether a file or one of its folders is hidden or belongs to the system."""
    return any(name[0] == "." or name in _SYSTEM for name in names)


def _in_run(container: Container, names: Sequence[str]) -> bool:
    """Whether a file lies in the folder `samples` of a run."""
    folder, *_ = (container.path.resolve() / "/".join(names)).parents
    above = "/".join([*names[:-2], "spec.json"])
    return folder.name == "samples" and (above in container.files or (folder.parent / "spec.json").is_file())


def skipped(passed_over: Mapping[str, Sequence[str]]) -> list[str]:
    """A line for each reason, with the number of files and the first of them."""
    return [f"ignored, {why}: {len(keys)}, such as {keys[0]}" for why, keys in passed_over.items() if keys]


def to_confirm(images: int, passed_over: Mapping[str, Sequence[str]]) -> list[str]:
    """Sentences about ignored files that are unexpected in a source of `images` images."""
    found = []
    for why, keys in passed_over.items():
        few = why.startswith(OTHER) and len(keys) <= MANY * images
        if keys and why not in _EXPECTED and not few:
            found.append(f"{why} would be ignored: {len(keys)}, such as {keys[0]}")
    return found
