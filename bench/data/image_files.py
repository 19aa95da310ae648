"""Sets of images on disk, read and written in batches: `.npz`, folders, zips, tars.

An `.npz` holds `arr_0` [N, H, W, C] uint8 and, optionally, the requested classes `arr_1` [N], as the samplers
of ADM write it; it is streamed, never loaded whole (50,000 images of 256x256 are 9.8 GB). Files of a folder,
zip or tar count in the order of their sorted paths.
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
from PIL import Image
from torch import Tensor

from bench.core.errors import UserError
from bench.core.files import replacing
from bench.data.containers import is_npz, open_container
from bench.data.decoding import decode
from bench.data.layout import Layout, survey


@dataclass(frozen=True)
class ImageSet:
    """Images in a fixed order."""

    path: Path
    count: int
    read: Callable[[int, int], Iterator[Tensor]]  # (largest batch, first number) -> batches
    labels: Tensor | None = None  # [N], requested classes
    files: tuple[Path, ...] = ()  # source files of the images
    layout: Layout | None = None  # of a folder or archive

    def batches(self, size: int, start: int = 0) -> Iterator[Tensor]:
        """Images number `start` to the end, [B, C, H, W] uint8 with C = 1 or 3 and B <= `size`.

        A batch ends where the next image has another size or number of channels.
        """
        return self.read(size, start)

    @property
    def summary(self) -> str:
        """Number of images, classes and splits, and ignored files with reasons; a few lines."""
        return self.layout.summary if self.layout else f"images: {self.count}"

    def refuse_surprises(self) -> None:
        """Raises UserError if there is anything that the user should confirm."""
        if self.layout:
            self.layout.refuse_surprises(self.path)


def open_images(path: Path) -> ImageSet:
    """Open a set of images. Raises UserError if there are none; its batches do for other than 8-bit ones."""
    if is_npz(path):
        return _archive_images(path)
    container = open_container(path)
    images, layout = survey(container)

    def decoded(key: str) -> Tensor:
        image = decode(lambda: container.read(key), f"{key} in {path}", grey=True)
        pixels = np.array(image)
        return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)

    def read(size: int, start: int) -> Iterator[Tensor]:
        with ThreadPoolExecutor() as pool:
            for first in range(start, len(images), size):
                batch = pool.map(decoded, images[first : first + size])
                for _, alike in itertools.groupby(batch, key=lambda image: image.shape):
                    yield torch.stack(list(alike))

    files = tuple(path / key for key in images) if path.is_dir() else (path,)
    return ImageSet(path, len(images), read, files=files, layout=layout)


def open_archive(path: Path) -> np.lib.npyio.NpzFile:
    """Open an `.npz` without unpickling objects. Raises UserError if it cannot be read."""
    if not path.is_file():
        raise UserError(f"there is nothing at {path}: give an .npz, a folder or a zip of images.")
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path} cannot be read as an .npz: it is cut off, or another kind of file.")
    try:
        return np.load(path, allow_pickle=False)
    except Exception as error:  # damaged files raise many kinds of errors
        raise UserError(f"{path} cannot be read as an .npz: {error or type(error).__name__}.") from None


def _archive_images(path: Path) -> ImageSet:
    with open_archive(path) as arrays:
        if "arr_0" not in arrays.files:
            raise UserError(f"{path} has no images (arr_0); it has {', '.join(arrays.files) or 'nothing'}.")
        has_labels = "arr_1" in arrays.files
    shape, dtype = _shape_and_type(path, "arr_0")
    if len(shape) != 4 or shape[-1] not in (1, 3) or min(shape) < 1:
        raise UserError(f"arr_0 of {path} has shape {shape}; images are [N, H, W, 3] or [N, H, W, 1].")
    if dtype != np.uint8:
        raise UserError(f"arr_0 of {path} is {dtype}; images must be uint8, 0 to 255.")
    labels = _labels(path, shape[0]) if has_labels else None

    def read(size: int, start: int) -> Iterator[Tensor]:
        image_bytes = int(np.prod(shape[1:]))
        with _reading(path, "arr_0") as file:
            _header(path, "arr_0", file)
            file.seek(start * image_bytes, 1)
            for first in range(start, shape[0], size):
                count = min(size, shape[0] - first)
                content = bytearray(file.read(count * image_bytes))
                if len(content) < count * image_bytes:
                    raise UserError(f"{path} ends before image {first + count} of {shape[0]}: it is damaged.")
                batch = torch.frombuffer(content, dtype=torch.uint8).view(count, *shape[1:])
                yield batch.permute(0, 3, 1, 2)

    return ImageSet(path, shape[0], read, labels, (path,))


def _labels(path: Path, count: int) -> Tensor:
    shape, dtype = _shape_and_type(path, "arr_1")
    if shape != (count,) or not np.issubdtype(dtype, np.integer):
        raise UserError(f"arr_1 of {path} is {dtype} {shape}; labels are [{count}] integers.")
    with _reading(path, "arr_1") as file:
        _header(path, "arr_1", file)
        content = file.read()
    if len(content) != count * dtype.itemsize:
        raise UserError(f"arr_1 of {path} is cut off: it is damaged.")
    return torch.from_numpy(np.frombuffer(content, dtype).astype(np.int64))


@contextmanager
def _reading(path: Path, name: str) -> Iterator[IO[bytes]]:
    """Open an array of an `.npz` as a stream. Raises UserError if it is damaged, encrypted or unsupported."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
            yield file
    except UserError:
        raise
    except Exception as error:  # cut off, encrypted, compressed by an odd method
        raise UserError(f"{name} of {path} cannot be read: {error or type(error).__name__}.") from None


def _shape_and_type(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype]:
    with _reading(path, name) as file:
        return _header(path, name, file)


def _header(path: Path, name: str, file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Read the header of an array, its shape and type; the file is left at its first byte."""
    try:
        version = np.lib.format.read_magic(file)
        reader = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, fortran_order, dtype = reader(file)
    except Exception as error:  # numpy parses the header
        raise UserError(f"{name} of {path} cannot be read: {error or type(error).__name__}.") from None
    if fortran_order:
        raise UserError(f"{name} of {path} is in Fortran order: save it again with numpy.ascontiguousarray.")
    return shape, dtype


@contextmanager
def writing(path: Path, count: int) -> Iterator[Callable[[Tensor], None]]:
    """A function that writes batches [B, C, H, W] uint8, `count` images in all, to an `.npz` or a folder.

    It is there when all images are written, or not at all. Raises UserError if the disk refuses, and for a
    folder that is not empty.
    """
    archive = path.suffix.lower() == ".npz"
    if not archive and path.is_dir() and any(path.iterdir()):
        raise UserError(f"{path} is not empty: images of two sets would be mixed. Choose another folder.")
    if path.is_dir() if archive else path.is_file():
        raise UserError(
            f"{path} is a {'folder' if archive else 'file'}: choose another place for the images."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _writing_archive(path, count) if archive else _writing_folder(path) as write:
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
    numbers = itertools.count()
    with replacing(path) as unfinished, ThreadPoolExecutor() as pool:
        unfinished.mkdir()

        def write(batch: Tensor) -> None:
            files = [unfinished / f"{number:06d}.png" for number, _ in zip(numbers, batch, strict=False)]
            list(pool.map(_save_png, batch, files))

        yield write


def _save_png(image: Tensor, file: Path) -> None:
    pixels = image.permute(1, 2, 0).numpy()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file)
