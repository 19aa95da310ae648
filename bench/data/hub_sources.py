"""Sources of images by name: files, and published data sets `hf:ID`, `hf:FOLDER`, `cifar10`."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.core.errors import UserError
from bench.core.progress import library_progress
from bench.data.layout import Layout, Member
from bench.data.shards import REFERENCE, TRAIN
from bench.data.sources import Source, open_files

_REFERENCE_SPLITS = ("validation", "valid", "val", "test")  # the first that is there


def open_source(text: str) -> Source:
    """The images at a path, or of a published data set. Raises UserError if there are none, or they
    cannot be read."""
    if text == "cifar10":
        return cifar10()
    return (
        hugging_face(os.path.expanduser(text[3:]))
        if text.startswith("hf:")
        else open_files(Path(text).expanduser())
    )


def hugging_face(name: str) -> Source:
    """A data set of the library `datasets`: an id of the hub, a folder of Parquet or image files, or one
    written by `save_to_disk`. It needs a column of images and one of integer labels.

    Raises:
        UserError: if the library is absent, the data set is not available, or a column is missing.
    """
    try:
        import datasets
    except ImportError:
        raise UserError("Hugging Face data sets need the library datasets: pip install '.[hf]'") from None
    try:
        saved = (Path(name) / "dataset_dict.json").is_file()
        with library_progress():
            splits: Any = datasets.load_from_disk(name) if saved else datasets.load_dataset(name)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"the Hugging Face data set {name} is not available: {reason}") from None
    held_out = next((split for split in _REFERENCE_SPLITS if split in splits), None)
    if TRAIN not in splits:
        raise UserError(f"the Hugging Face data set {name} has no split 'train', only {', '.join(splits)}.")
    features = splits[TRAIN].features
    image = _column(name, features, lambda kind: isinstance(kind, datasets.Image), "images")
    label = _column(name, features, lambda kind: isinstance(kind, datasets.ClassLabel), "class labels")
    classes = tuple(features[label].names)
    names = {TRAIN: TRAIN} | ({REFERENCE: held_out} if held_out else {})
    rows = {split: splits[split].cast_column(image, datasets.Image(decode=False)) for split in names.values()}
    parts = {}
    for part, split in names.items():
        labels = np.asarray(rows[split].with_format("numpy")[label])
        outside = np.flatnonzero((labels < 0) | (labels >= len(classes)))
        if outside.size:
            raise UserError(
                f"record {outside[0]} of {name}, split {split}, has the label {labels[outside[0]]}, outside "
                f"0..{len(classes) - 1}: choose a split whose labels are public."
            )
        parts[part] = [Member(f"{split}/{row:08d}", int(value)) for row, value in enumerate(labels)]

    def read(key: str) -> bytes:
        split, _, row = key.partition("/")
        found = rows[split][int(row)][image]
        return found["bytes"] or Path(found["path"]).read_bytes()

    return Source(name, Layout(classes, parts), read)


def _column(name: str, features: Any, fits: Any, what: str) -> str:
    for column, kind in features.items():
        if fits(kind):
            return column
    raise UserError(f"the Hugging Face data set {name} has no column of {what}, only {', '.join(features)}.")


def cifar10() -> Source:
    """torchvision's CIFAR-10, downloaded to the cache folder unless it is there already."""
    from torchvision.datasets import CIFAR10

    from bench.core.machine import cache_folder

    try:
        with library_progress():
            sets = {
                part: CIFAR10(str(cache_folder()), train=part == TRAIN, download=True)
                for part in (TRAIN, REFERENCE)
            }
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"CIFAR-10 cannot be downloaded to {cache_folder()}: {reason}. Put {CIFAR10.filename} there, "
            f"from {CIFAR10.url}"
        ) from None

    def read(key: str) -> bytes:
        part, _, row = key.partition("/")
        content = io.BytesIO()
        Image.fromarray(sets[part].data[int(row)]).save(content, "png", compress_level=0)
        return content.getvalue()

    parts = {
        part: [Member(f"{part}/{row:05d}", label) for row, label in enumerate(data.targets)]
        for part, data in sets.items()
    }
    return Source("cifar10", Layout(tuple(sets[TRAIN].classes), parts), read)
