"""Sets of images on disk, read batch by batch and written one by one: `.npz`, folders, zips.

An `.npz` holds `arr_0` [N, H, W, C] uint8 and, optionally, the requested classes `arr_1` [N], as the samplers
of ADM write it; it is streamed, never loaded whole (50,000 images of 256x256 are 9.8 GB). Files of a folder
or zip count in the order of their sorted paths.
"""

from __future__ import annotations

import itertools
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from bench.core.errors import UserError
from bench.core.files import replacing

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


@dataclass(frozen=True)
class ImageSet:
    """Images in a fixed order."""

    path: Path
    count: int
    read: Callable[[int, int], Iterator[Tensor]]  # (largest batch, first number) -> batches
    labels: Tensor | None = None  # [N], the classes that were asked for

    def batches(self, size: int, start: int = 0) -> Iterator[Tensor]:
        """Images number `start` to the end, [B, C, H, W] uint8 with C = 1 or 3 and B <= `size`.

        A batch ends where the next image has another size or number of channels.
        """
        return self.read(size, start)


def open_images(path: Path) -> ImageSet:
    """A set of images. Raises UserError where there are none; its batches do, for what is no 8-bit image."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
        return _image_files(path, [(str(file.relative_to(path)), file) for file in files])
    if not path.is_file():
        raise UserError(f"there is nothing at {path}: give an .npz, a folder or a zip of images.")
    if path.suffix == ".npz":
        return _archive_images(path)
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path} is neither an .npz, nor a folder, nor a zip of images.")
    archive = zipfile.ZipFile(path)
    names = sorted(name for name in archive.namelist() if Path(name).suffix.lower() in SUFFIXES)
    return _image_files(path, [(name, _Member(archive, name)) for name in names])


@dataclass(frozen=True)
class _Member:
    """An image in a zip, opened as a path is."""

    archive: zipfile.ZipFile
    name: str

    def open(self, mode: str) -> IO[bytes]:
        return self.archive.open(self.name, "r")


def _image_files(path: Path, files: list[tuple[str, Path | _Member]]) -> ImageSet:
    if not files:
        raise UserError(f"there are no images ({', '.join(sorted(SUFFIXES))}) in {path}.")

    def read(size: int, start: int) -> Iterator[Tensor]:
        with ThreadPoolExecutor() as pool:
            for first in range(start, len(files), size):
                images = pool.map(lambda file: _decode(path, *file), files[first : first + size])
                for _, alike in itertools.groupby(images, key=lambda image: image.shape):
                    yield torch.stack(list(alike))

    return ImageSet(path, len(files), read)


def _decode(path: Path, name: str, file: Path | _Member) -> Tensor:
    """One image, [C, H, W] uint8: 1 channel for grey ones, else 3."""
    try:
        with file.open("rb") as content, Image.open(content) as image:
            if image.mode not in ("L", "RGB", "RGBA", "P", "1", "LA", "CMYK"):
                raise UserError(f"{name} in {path} is not 8 bits a channel (mode {image.mode}).")
            grey = image.mode in ("L", "1")
            pixels = np.array(image.convert("L" if grey else "RGB"))
    except (UnidentifiedImageError, OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{name} in {path} cannot be read as an image: {error}.") from None
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)


def open_archive(path: Path) -> np.lib.npyio.NpzFile:
    """An `.npz` from which nothing is unpickled. Raises UserError where it cannot be read."""
    if not path.is_file():
        raise UserError(f"there is nothing at {path}: give an .npz, a folder or a zip of images.")
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path} cannot be read as an .npz: it is cut off, or another kind of file.")
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read as an .npz: {error}.") from None


def _archive_images(path: Path) -> ImageSet:
    with open_archive(path) as arrays:
        if "arr_0" not in arrays.files:
            raise UserError(f"{path} has no images (arr_0); it has {', '.join(arrays.files) or 'nothing'}.")
        labels = arrays["arr_1"] if "arr_1" in arrays.files else None
    with zipfile.ZipFile(path) as archive, archive.open("arr_0.npy") as file:
        shape, dtype = _header(path, file)
    if len(shape) != 4 or shape[-1] not in (1, 3) or not shape[0]:
        raise UserError(f"arr_0 of {path} has shape {shape}; images are [N, H, W, 3] or [N, H, W, 1].")
    if dtype != np.uint8:
        raise UserError(f"arr_0 of {path} is {dtype}; images must be uint8, 0 to 255.")
    if labels is not None and (labels.shape != shape[:1] or not np.issubdtype(labels.dtype, np.integer)):
        raise UserError(
            f"arr_1 of {path} is {labels.dtype} {labels.shape}; labels are [{shape[0]}] integers."
        )

    def read(size: int, start: int) -> Iterator[Tensor]:
        image_bytes = int(np.prod(shape[1:]))
        with zipfile.ZipFile(path) as archive, archive.open("arr_0.npy") as file:
            _header(path, file)
            file.seek(start * image_bytes, 1)
            for first in range(start, shape[0], size):
                count = min(size, shape[0] - first)
                content = bytearray(file.read(count * image_bytes))
                if len(content) < count * image_bytes:
                    raise UserError(f"{path} ends before image {first + count} of {shape[0]}: it is damaged.")
                batch = torch.frombuffer(content, dtype=torch.uint8).view(count, *shape[1:])
                yield batch.permute(0, 3, 1, 2)

    return ImageSet(path, shape[0], read, None if labels is None else torch.from_numpy(labels).long())


def _header(path: Path, file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of the array that follows; the file is left at its first byte."""
    try:
        version = np.lib.format.read_magic(file)
        reader = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, fortran_order, dtype = reader(file)
    except ValueError as error:
        raise UserError(f"arr_0 of {path} cannot be read: {error}.") from None
    if fortran_order:
        raise UserError(f"arr_0 of {path} is in Fortran order: save it again with numpy.ascontiguousarray.")
    return shape, dtype


@contextmanager
def writing(path: Path, count: int) -> Iterator[Callable[[Tensor], None]]:
    """A function that writes batches [B, C, H, W] uint8, `count` images in all, to an `.npz` or a folder.

    Raises UserError where the disk refuses.
    """
    try:
        with _writing_archive(path, count) if path.suffix == ".npz" else _writing_folder(path) as write:
            yield write
    except OSError as error:
        raise UserError(f"the images cannot be written to {path}: {error.strerror or error}.") from None


@contextmanager
def _writing_archive(path: Path, count: int) -> Iterator[Callable[[Tensor], None]]:
    with (
        replacing(path) as unfinished,
        zipfile.ZipFile(unfinished, "w") as archive,
        archive.open("arr_0.npy", "w", force_zip64=True) as file,
    ):

        def write(batch: Tensor) -> None:
            pixels = batch.permute(0, 2, 3, 1).contiguous().numpy()
            nonlocal shape
            if not shape:
                shape = pixels.shape[1:]
                header = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
                np.lib.format.write_array_header_1_0(file, header)
            if pixels.shape[1:] != shape:
                raise UserError("an .npz holds images of one size, these are of several: name a folder.")
            file.write(pixels.tobytes())

        shape: tuple[int, ...] = ()
        yield write


@contextmanager
def _writing_folder(path: Path) -> Iterator[Callable[[Tensor], None]]:
    """000000.png, 000001.png, ..."""
    path.mkdir(parents=True, exist_ok=True)
    numbers = itertools.count()
    with ThreadPoolExecutor() as pool:

        def write(batch: Tensor) -> None:
            files = [path / f"{number:06d}.png" for number, _ in zip(numbers, batch, strict=False)]
            list(pool.map(_save_png, batch, files))

        yield write


def _save_png(image: Tensor, file: Path) -> None:
    pixels = image.permute(1, 2, 0).numpy()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file)
