"""Layout of a folder or archive of images: which files are images, and their split and class.

    train/CLASS/FILE  val/CLASS/FILE      splits by their usual names, in any case, at any depth
    CLASS/FILE  CLASS/images/FILE         a level that is the same for all images is ignored
    dataset.json                          labels by file (StyleGAN, EDM, REPA); then folders are not classes

Labels are the ranks of the sorted class names. No file is dropped silently: `Layout.summary` describes the
layout, and `Layout.surprises` lists what the user should confirm.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bench.core.errors import UserError
from bench.data.containers import Container
from bench.data.ignored_files import (
    BESIDE,
    LISTS,
    NO_CLASS,
    NO_PART,
    UNLABELLED,
    images_in,
    is_hidden,
    skipped,
    to_confirm,
)
from bench.data.label_file import LABELS, read_labels
from bench.data.shards import REFERENCE, TRAIN

_PARTS = {"train": TRAIN, "training": TRAIN} | dict.fromkeys(
    ("val", "valid", "validation", "test", "testing"), REFERENCE
)
_PLACES = {"images", "image", "imgs", "img", "jpegimages", "data", "samples", "photos", "pictures"}

Parts = dict[str, dict[str, tuple[str, ...]]]  # part -> key -> folders


class Member(NamedTuple):
    """An image of a source."""

    key: str  # its path inside the source
    label: int


@dataclass(frozen=True)
class Layout:
    """Splits, classes and labels of a source, and its ignored files."""

    classes: tuple[str, ...]
    parts: dict[str, list[Member]]  # in the order of sorted keys
    passed_over: dict[str, list[str]] = field(default_factory=dict)  # why -> keys
    surprises: list[str] = field(default_factory=list)  # sentences that the user should confirm

    @property
    def summary(self) -> str:
        """Numbers of images and classes, splits, and ignored files with reasons; a few lines."""
        lines = []
        for part, members in self.parts.items():
            counts = Counter(member.label for member in members)
            least, most = min(counts.values()), max(counts.values())
            per_class = f"{least}" if least == most else f"{least} to {most}"
            found = f"images: {len(members)}, classes: {len(counts)}"
            named = f"{part}: " if len(self.parts) > 1 or part != TRAIN else ""
            lines.append(named + found + (f", images per class: {per_class}" if len(counts) > 1 else ""))
        return "\n".join(lines + skipped(self.passed_over))

    def refuse_surprises(self, source: object) -> None:
        """Raises UserError if there is anything that the user should confirm."""
        if self.surprises:
            raise UserError(f"{source}: {'; '.join(self.surprises)}. If this is right, add --yes.")


def understand(container: Container) -> Layout:
    """Infer splits, classes and labels. Raises UserError for no images, or labels that do not match."""
    images, passed_over = images_in(container)
    surprises: list[str] = []
    part_level = _level_of_parts({key: _folders(key) for key in images})
    parts = _by_part(images, part_level, passed_over)
    labelled = read_labels(container, images, surprises)
    if labelled:
        classes, label = labelled
        passed_over[UNLABELLED] = [key for key in images if key not in label]
        passed_over[LISTS] = [key for key in passed_over[LISTS] if not key.endswith(LABELS)]
    else:
        level = _level_of_classes(set(parts[TRAIN].values()), surprises)
        classes, label = _labels_of_folders(parts, level, passed_over)
        if level is not None:
            level += part_level is not None and part_level <= level
            in_classes = [key for key in parts[TRAIN] if key in label]
            surprises += _empty_folders(container, in_classes, level)
    members = {
        part: [Member(key, label[key]) for key in keys if key in label] for part, keys in parts.items()
    }
    members = {part: found for part, found in members.items() if found}
    if TRAIN not in members:
        why = "; ".join(skipped(passed_over))
        raise UserError(f"no training image in {container.path} has a class: {why}.")
    counts = Counter(member.label for member in members[TRAIN])
    if len(counts) == 1 and (labelled or _says_nothing(classes[0])):
        surprises.append("all training images are of one class")
    if absent := [name for rank, name in enumerate(classes) if not counts[rank]]:
        surprises.append(f"classes without a training image: {len(absent)}, such as {absent[0]}")
    return Layout(classes, members, passed_over, surprises + to_confirm(len(images), passed_over))


def _says_nothing(name: str) -> bool:
    """Whether a single folder is a place of images rather than a class."""
    return not name or name.isdigit() or name.lower() in _PLACES


def survey(container: Container) -> tuple[list[str], Layout]:
    """All images, sorted, for use without labels; classes are those of the folders.

    Raises:
        UserError: if there are no images.
    """
    images, passed_over = images_in(container)
    apart: dict[str, list[str]] = {}
    parts = _by_part(images, _level_of_parts({key: _folders(key) for key in images}), apart)
    classes, label = _labels_of_folders(parts, _level_of_classes(set(parts[TRAIN].values()), []), apart)
    members = {part: [Member(key, label.get(key, -1)) for key in keys] for part, keys in parts.items()}
    surprises = to_confirm(len(images), passed_over)
    if len(parts) > 1 or apart.get(NO_PART):
        surprises.append("images of train and of val or test would be taken together: name one folder")
    if beside := apart[BESIDE]:
        surprises.append(f"{BESIDE} would be used as well: {len(beside)}, such as {beside[0]}")
    return images, Layout(classes, members, passed_over, surprises)


def _folders(key: str) -> tuple[str, ...]:
    return tuple(key.split("/")[:-1])


def _level_of_parts(folders: Mapping[str, tuple[str, ...]]) -> int | None:
    """The depth at which folders are called train, val, test; None if there is none.

    At that depth every folder is called so, or more than one of these names is there. A lone `train` beside
    others is a class, unless it holds folders that the others lack.
    """
    for level in range(max(map(len, folders.values()))):
        deep = {names for names in folders.values() if len(names) > level}
        named = {names[level].lower() for names in deep} & _PARTS.keys()
        if not any(_PARTS[name] == TRAIN for name in named):
            continue
        inside, beside = set(), set()
        for names in deep:
            (inside if names[level].lower() in named else beside).add(names[level + 1 : level + 2])
        if not beside or len(named) > 1 or not inside <= beside | {()}:
            return level
    return None


def _by_part(images: Sequence[str], level: int | None, passed_over: dict[str, list[str]]) -> Parts:
    """The images of each split, with their folders except that of the split."""
    if level is None:
        return {TRAIN: {key: _folders(key) for key in images}}
    parts: Parts = {TRAIN: {}}
    for key in images:
        names = _folders(key)
        part = _PARTS.get(names[level].lower()) if len(names) > level else None
        if part is None:
            passed_over.setdefault(NO_PART, []).append(key)
        else:
            parts.setdefault(part, {})[key] = names[:level] + names[level + 1 :]
    return parts


def _level_of_classes(folders: set[tuple[str, ...]], surprises: list[str]) -> int | None:
    """The depth of the folders that are classes; None if the images are in no folders.

    It is the deepest one at which no name is under two parents: in CLASS/images/FILE, `images` is.
    """
    first, last = min(folders), max(folders)  # these two differ first, if any do
    pairs = zip(first, last, strict=False)
    shared = next((depth for depth, (a, b) in enumerate(pairs) if a != b), min(len(first), len(last)))
    if len(folders) == 1:
        return shared - 1 if shared else None
    nested = {names for names in folders if len(names) > shared}  # other images lie beside the classes
    level = min(map(len, nested)) - 1
    while level > shared and _repeats(nested, level):
        level -= 1
    telling = [
        depth
        for depth in range(shared, max(map(len, nested)))
        if len({names[depth] for names in nested if len(names) > depth}) > 1
    ]
    if len(set(map(len, nested))) > 1:
        deepest, highest = max(nested, key=len), min(nested, key=len)
        surprises.append(
            f"images lie at different depths: in {'/'.join(highest)} they would be of class "
            f"'{highest[level]}', in {'/'.join(deepest)} of class '{deepest[level]}'"
        )
    elif len(telling) > 1:
        other = next(depth for depth in telling if depth != level)
        example = min(names for names in nested if len(names) > other)
        surprises.append(
            f"folders of different names lie {len(telling)} deep: '{example[level]}' would be a class, and "
            f"'{example[other]}' not"
        )
    return level


def _repeats(folders: set[tuple[str, ...]], level: int) -> bool:
    """Whether a name at this depth occurs under two parents."""
    paths = {names[: level + 1] for names in folders if len(names) > level}
    return len({path[-1] for path in paths}) < len(paths)


def _labels_of_folders(
    parts: Parts, level: int | None, passed_over: dict[str, list[str]]
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Class names, and the label of each image that has one."""
    if level is None:
        names = dict.fromkeys(parts[TRAIN], "")
    else:
        names = {key: folder[level] for key, folder in parts[TRAIN].items() if len(folder) > level}
    passed_over[BESIDE] = [key for key in parts[TRAIN] if key not in names]
    classes = tuple(sorted(set(names.values())))
    ranks = {name: rank for rank, name in enumerate(classes)}
    label = {key: ranks[name] for key, name in names.items()}
    for key, folder in parts.get(REFERENCE, {}).items():
        name = next((name for name in reversed(folder) if name in ranks), None)
        if name is not None or len(classes) == 1:
            label[key] = ranks.get(name or "", 0)
    passed_over[NO_CLASS] = [key for key in parts.get(REFERENCE, ()) if key not in label]
    return classes, label


def _empty_folders(container: Container, images: Sequence[str], level: int) -> list[str]:
    """A sentence about folders at the depth of classes that contain no image."""
    classes = {tuple(key.split("/")[: level + 1]) for key in images}
    parents = {path[:-1] for path in classes}
    paths = [tuple(folder.split("/")) for folder in sorted(container.folders)]
    empty = [path for path in paths if path[:-1] in parents and path not in classes and not is_hidden(path)]
    if not empty:
        return []
    return [f"folders without images next to those of classes: {len(empty)}, such as {'/'.join(empty[0])}"]
