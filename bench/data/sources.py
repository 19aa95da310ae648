"""Where images come from: a folder, a zip or a tar with a folder for each class.

The folder that holds an image is its class; labels are the ranks of the sorted class names, as everywhere
in the field. Where some images lie under a folder `train`, these are the training part and those under
`test`, `val` or `validation` the reference; otherwise all are the training part. Published data sets
bring their own splits and classes: see published.py.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from bench.core.errors import UserError
from bench.data.shards import REFERENCE, TRAIN, Resize

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
_REFERENCE_FOLDERS = {"test", "val", "validation"}


class Member(NamedTuple):
    """An image of a source."""

    key: str  # its path inside the source
    label: int


@dataclass(frozen=True)
class Source:
    """Images in a fixed order, by part."""

    name: str
    classes: tuple[str, ...]
    parts: dict[str, list[Member]]
    read: Callable[[str], bytes]  # key -> content of the file

    @property
    def keys_sha256(self) -> str:
        digest = hashlib.sha256()
        for part, members in self.parts.items():
            for key, label in members:
                digest.update(f"{part}\0{key}\0{label}\n".encode())
        return digest.hexdigest()

    def pixels(self, key: str, size: int, resize: Resize = "adm") -> np.ndarray:
        """An image, resized and cropped, [3, size, size] uint8. Raises UserError naming a damaged file."""
        try:
            with Image.open(io.BytesIO(self.read(key))) as image:
                if image.mode not in ("L", "RGB", "RGBA", "P", "1", "LA", "CMYK", "YCbCr"):
                    raise UserError(f"{key} in {self.name} is not 8 bits a channel (mode {image.mode}).")
                return np.asarray(RESIZES[resize](image.convert("RGB"), size)).transpose(2, 0, 1)
        except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError) as error:
            raise UserError(
                f"{key} in {self.name} cannot be read as an image ({error}): repair or remove it."
            ) from None
        except zipfile.BadZipFile as error:
            raise UserError(f"{self.name} is damaged at {key}: {error}.") from None


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """ADM's preprocessing (`center_crop_arr` of guided-diffusion, Dhariwal and Nichol 2021)."""
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    scaled = round(image.width * scale), round(image.height * scale)
    image = image.resize(scaled, Image.Resampling.BICUBIC)
    return _centre(image, size)


def area_average(image: Image.Image, size: int) -> Image.Image:
    """The largest centred square; a pixel is the mean of those whose centres it covers."""
    square = _centre(image, min(image.size))
    return square.resize((size, size), Image.Resampling.BOX)


def _centre(image: Image.Image, size: int) -> Image.Image:
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


RESIZES: dict[Resize, Callable[[Image.Image, int], Image.Image]] = {"adm": centre_crop, "area": area_average}


def open_files(path: Path) -> Source:
    """The images of a folder, zip or tar. Raises UserError where there are none, or they cannot be read."""
    if path.is_dir():
        keys = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
        return _source(path, keys, lambda key: (path / key).read_bytes())
    if not path.is_file():
        raise UserError(
            f"there is nothing at {path}: give a folder, zip or tar of images, hf:ID, or cifar10."
        )
    if zipfile.is_zipfile(path):
        archive = zipfile.ZipFile(path)
        return _source(path, archive.namelist(), archive.read)
    try:
        return _tar(path)
    except tarfile.ReadError:
        raise UserError(
            f"{path} is neither a folder, nor a zip, nor an uncompressed tar of images: unpack it first."
        ) from None


def _tar(path: Path) -> Source:
    with tarfile.open(path, "r:") as archive:
        places = {member.name: (member.offset_data, member.size) for member in archive if member.isfile()}

    def read(key: str) -> bytes:
        offset, size = places[key]
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(size)

    return _source(path, list(places), read)


def _source(path: Path, keys: list[str], read: Callable[[str], bytes]) -> Source:
    images = sorted(key for key in keys if PurePosixPath(key).suffix.lower() in SUFFIXES)
    folders = {key: PurePosixPath(key).parts[:-1] for key in images}
    has_train = any(TRAIN in folders[key] for key in images)

    def part(key: str) -> str | None:
        if not has_train or TRAIN in folders[key]:
            return TRAIN
        return REFERENCE if _REFERENCE_FOLDERS & set(folders[key]) else None

    of_class = {key: folders[key][-1] if folders[key] else "" for key in images if part(key)}
    classes = tuple(sorted({name for key, name in of_class.items() if part(key) == TRAIN}))
    if not classes:
        raise UserError(f"there are no images ({', '.join(sorted(SUFFIXES))}) in {path}.")
    ranks = {name: rank for rank, name in enumerate(classes)}
    parts: dict[str, list[Member]] = {TRAIN: []}
    for key, name in of_class.items():
        if name not in ranks:
            raise UserError(f"{key} in {path} is of class '{name}', which no training image has.")
        parts.setdefault(str(part(key)), []).append(Member(key, ranks[name]))
    return Source(path.name, classes, parts, read)
