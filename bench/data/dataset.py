"""Data sets by name: a TOML file of this folder with its preset.

Where the preset has a table `[store]`, the images lie in a store that `python -m bench.prepare` makes: in
`stores/NAME`, in `$ALIGNMENT_BENCH_STORES/NAME`, or where the name says, `folder[path=stores/mine]`. Other
data sets are loaded by the module beside their preset.

Samples are compared with images of the data set, or with a file that the name brings along, as in
`imagenet256[reference=VIRTUAL_imagenet256_labeled.npz]`; then no store is needed to score a network.
"""

from __future__ import annotations

import importlib
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from bench.core import grammar
from bench.core.errors import unknown

if TYPE_CHECKING:
    from torch import Generator, Tensor

_FOLDER = Path(__file__).parent / "presets"
ALL = slice(None)


@dataclass(frozen=True)
class StoreOptions:
    """What rides in brackets behind the name of a data set that lives in a store."""

    reference: str = ""  # a file that samples are compared with, instead of images of the store
    path: str = ""  # of the store
    vae: str = ""  # that made its latents, where it is another than the preset's
    decoder: str = ""  # of its latents, likewise


class Shape(NamedTuple):
    """What a backbone must know of a data set."""

    classes: int
    channels: int
    size: int  # rows and columns of x0


class Batch(NamedTuple):
    """Some training records."""

    x0: Tensor  # [B, C, H, W] float32, what the backbone learns to generate: pixels in [-1, 1], or latents
    label: Tensor  # [B] int64
    image: Tensor  # [B, C', R, R] uint8, for encoders; [0] where nobody asked and it costs a read
    index: Tensor  # [B] int64, the records' own numbers


class Data(Protocol):
    """A data set, however it is stored."""

    classes: int
    channels: int  # of x0
    size: int  # rows and columns of x0
    image_size: int  # rows and columns of the images that encoders see

    def __len__(self) -> int:
        """Training records."""
        ...

    def batch(self, index: Tensor, generator: Generator, images: bool = True, rows: slice = ALL) -> Batch:
        """The records of these numbers, on the CPU; `generator` draws what is random in them (latents).

        `images`: whether the images are wanted beside x0. Only `rows` of the records are read and returned,
        the same as they are in the whole batch.
        """
        ...

    def to_pixels(self, x0: Tensor) -> Tensor:
        """Model space [B, C, H, W] -> images [B, C', R, R], meant to be in [-1, 1]; differentiable."""
        ...

    def reference(self) -> tuple[Tensor, Tensor]:
        """Images [N, C', R, R] uint8 and labels [N] that samples are compared with; never trained on."""
        ...


def names() -> tuple[str, ...]:
    """The data sets of this folder; imports nothing."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def preset(text: str) -> dict[str, Any]:
    """The preset of a data set. Raises UserError for an unknown one."""
    name, _ = grammar.split(text)
    if name not in names():
        raise unknown("data set", name, names())
    return tomllib.loads((_FOLDER / f"{name}.toml").read_text())


def load(text: str) -> Data:
    """The data set of that name, ready to use. Raises UserError where its files are missing or damaged."""
    name, options = grammar.split(text)
    store = preset(text).get("store")
    if store is None:
        grammar.configure(_NoOptions, options, f"data set {name}")
        return importlib.import_module(f"bench.data.{name}").load()
    from bench.data.sharded import Expected, StoredImages

    chosen = grammar.configure(StoreOptions, options, f"data set {name}")
    if "x0" in store and chosen.reference and not available(text):
        from bench.data.decode_only import Storeless

        return Storeless(shape(text), store | options)
    expected = {key: value for key, value in store.items() if key not in ("x0", "records")}
    expected |= {key: value for key in ("vae", "decoder") if (value := getattr(chosen, key))}
    return StoredImages(store_folder(text), Expected(**expected))


def identity(text: str) -> str:
    """The name, and of a store its fingerprint: the same for the same images, wherever they lie."""
    name, _ = grammar.split(text)
    if "store" not in preset(text):
        return name
    if not available(text):
        return name
    from bench.data.shards import read_manifest

    return f"{name}@{read_manifest(store_folder(text))[0].fingerprint}"


def reference_file(text: str) -> Path | None:
    """The file that the name brings along for samples to be compared with."""
    _, options = grammar.split(text)
    return Path(options["reference"]) if "reference" in options else None


def available(text: str) -> bool:
    """Whether the data set can be loaded: it is embedded, or its store is here and finished."""
    if "store" not in preset(text):
        return True
    from bench.data.shards import MANIFEST

    return (store_folder(text) / MANIFEST).is_file()


def shape(text: str) -> Shape:
    """Classes and size of x0; of a store that is not there yet, what the preset expects of it.

    Raises UserError where neither says.
    """
    store = preset(text).get("store")
    if store and "x0" in store and not available(text):
        return Shape(store["classes"], store["x0"]["channels"], store["x0"]["size"])
    data = load(text)
    return Shape(data.classes, data.channels, data.size)


def of_shape(wanted: Shape) -> str | None:
    """The data set whose preset expects x0 of this shape; None where there is none."""
    for name in names():
        store = preset(name).get("store", {})
        if "x0" in store and Shape(store["classes"], **store["x0"]) == wanted:
            return name
    return None


@dataclass(frozen=True)
class _NoOptions:
    pass


def store_folder(text: str) -> Path:
    """Where the store of a data set lies, or shall lie."""
    name, options = grammar.split(text)
    if "path" in options:
        return Path(options["path"])
    return Path(os.environ.get("ALIGNMENT_BENCH_STORES", "stores")) / name
