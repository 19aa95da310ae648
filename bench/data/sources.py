"""Sources of images for a store: a folder, a zip or a tar, resized to one size.

How folders are understood is in layout.py; published data sets bring their own splits and classes, see
hub_sources.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bench.core.errors import UserError
from bench.data.containers import open_container
from bench.data.decoding import decode
from bench.data.layout import Layout, understand
from bench.data.shards import Resize

LONGEST = 100  # times its shorter side may an image be long


@dataclass(frozen=True)
class Source:
    """Images in a fixed order, by part."""

    name: str
    layout: Layout
    read: Callable[[str], bytes]  # key -> content of the file

    @property
    def keys_sha256(self) -> str:
        digest = hashlib.sha256()
        for part, members in self.layout.parts.items():
            for key, label in members:
                digest.update(as_bytes(f"{part}\0{key}\0{label}\n"))
        return digest.hexdigest()

    def pixels(self, key: str, size: int, resize: Resize = "adm") -> np.ndarray:
        """An image, resized and cropped, [3, size, size] uint8. Raises UserError naming a damaged file."""
        image = decode(lambda: self.read(key), f"{key} in {self.name}")
        if max(image.size) > LONGEST * min(image.size):  # scaling it up would fill the memory
            raise UserError(
                f"{key} in {self.name} has {image.width} x {image.height} pixels: no square can be cut from "
                "it. Remove it."
            )
        return np.asarray(RESIZES[resize](image, size)).transpose(2, 0, 1)


def as_bytes(key: str) -> bytes:
    """The bytes of a key as in the file system, UTF-8 or not."""
    return key.encode("utf-8", "surrogateescape")


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """Preprocessing of ADM (`center_crop_arr` of guided-diffusion, Dhariwal and Nichol 2021)."""
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    scaled = round(image.width * scale), round(image.height * scale)
    image = image.resize(scaled, Image.Resampling.BICUBIC)
    return _centre(image, size)


def area_average(image: Image.Image, size: int) -> Image.Image:
    """The largest centred square, resized by averaging."""
    square = _centre(image, min(image.size))
    return square.resize((size, size), Image.Resampling.BOX)


def _centre(image: Image.Image, size: int) -> Image.Image:
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


RESIZES: dict[Resize, Callable[[Image.Image, int], Image.Image]] = {"adm": centre_crop, "area": area_average}


def open_files(path: Path) -> Source:
    """The images of a folder, zip or tar. Raises UserError if there are none, or they cannot be read."""
    container = open_container(path)
    return Source(path.name, understand(container), container.read)
