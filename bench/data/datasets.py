"""Data sets by name: a TOML file in `presets` for each.

If the preset has a table `[store]`, the images lie in a store that `python -m bench.prepare` makes: in
`stores/NAME`, in `$ALIGNMENT_BENCH_STORES/NAME`, or where the name says, `folder[path=stores/mine]`. Other
data sets are opened by the module of their name in this package, or are a Python file of the user's,
`path/to/my_data.py`.

Samples are compared with images of the data set, or with a file that the name brings along, as in
`imagenet256[reference=VIRTUAL_imagenet256_labeled.npz]`; then no store is needed to score a network.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from bench.core import grammar, plugin
from bench.core.errors import UserError, unknown
from bench.core.files import sha256
from bench.data.base import CustomDataset, Records, Shape
from bench.data.containers import is_npz, open_container
from bench.data.shards import MANIFEST, Manifest, read_manifest

_PRESETS = Path(__file__).parent / "presets"
_CUSTOM: dict[str, Any] = {  # what the preset of a `CustomDataset` may leave out
    "teacher": "dinov2-b",
    "reward_net": "none",
    "training": {},
    "protocol": {"reference": "the data set's own", "feature_nets": ("random-conv", "pixels")},
}


@dataclass(frozen=True)
class NoOptions:
    """A data set that comes with the package takes no options."""


@dataclass(frozen=True)
class StoreOptions:
    """Options of a data set in a store."""

    reference: str = ""  # reference file that samples are compared with, instead of images of the store
    path: str = ""  # of the store
    vae: str = ""  # of its latents, if different from the preset
    decoder: str = ""  # of its latents, if different from the preset


@dataclass(frozen=True)
class Dataset:
    """A data set, described by its name. Image files are not opened before `open`."""

    name: str  # of the preset
    options: dict[str, str]  # as in brackets
    preset: Mapping[str, Any]
    folder: Path | None  # of its store; None: the data set comes with the package
    reference_file: Path | None  # that samples are compared with, given in the name
    custom: CustomDataset | None = None  # from a file of the user

    def __str__(self) -> str:
        return grammar.join(self.name, self.options)

    @property
    def expected(self) -> dict[str, Any]:
        """Expected properties of its store, from preset and options; empty for a data set without a store."""
        own = {
            key: os.path.expanduser(self.options[key]) for key in ("vae", "decoder") if key in self.options
        }
        return self.preset["store"] | self.preset.get("shape", {}) | own if self.folder else {}

    @property
    def available(self) -> bool:
        """Whether it can be trained on: it is part of the package, or its store is complete."""
        return self.folder is None or (self.folder / MANIFEST).is_file()

    @cached_property
    def manifest(self) -> Manifest | None:
        """The manifest of its store; None if there is no complete store.

        Raises:
            UserError: if the manifest is damaged, or the store is not what the preset expects.
        """
        if self.folder is None or not self.available:
            return None
        manifest = read_manifest(self.folder)
        self._refuse_another(manifest)
        return manifest

    @property
    def shape(self) -> Shape:
        """Classes and size of x0, from the store or, if it does not exist yet, from the preset.

        Raises:
            UserError: if neither says.
        """
        if self.manifest:
            return self.manifest.shape
        if self.folder and "shape" not in self.preset:
            return read_manifest(self.folder).shape  # raises: there is no store
        return Shape(**self.preset["shape"])

    @property
    def image_size(self) -> int:
        """Rows and columns of the images that encoders see. Raises UserError as `shape`."""
        if self.manifest:
            return self.manifest.size
        return self.expected.get("image_size", self.shape.size)

    @property
    def identity(self) -> str:
        """The name and the content of its store or file, independent of their paths."""
        if self.custom:
            return plugin.identity(str(self), CustomDataset, "data set")
        return f"{self.name}@{self.manifest.identity}" if self.manifest else self.name

    @property
    def reference_identity(self) -> str:
        """16 hex digits of the content of the reference file, or of the images in a folder or archive.

        Raises:
            UserError: if it cannot be read.
        """
        assert self.reference_file
        try:
            status = self.reference_file.stat()
            return _content(self.reference_file, status.st_mtime_ns, status.st_size)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"the reference {self.reference_file} cannot be read: {reason}.") from None

    def open(self) -> Records:
        """Open its records. Raises UserError if files are missing, damaged, or not as the preset expects.

        Of a data set that has a reference file and no store here, samples can be decoded, and nothing else.
        """
        if self.custom:
            return self.custom.open()
        if self.folder is None:
            return importlib.import_module(f"bench.data.{self.name}").load()
        if self.reference_file and not self.available and "shape" in self.preset:
            from bench.data.decode_only import DecodeOnly

            return DecodeOnly(self.shape, self.expected)
        from bench.data.sharded import StoredImages

        self._refuse_another(read_manifest(self.folder))
        return StoredImages(self.folder)

    def _refuse_another(self, manifest: Manifest) -> None:
        found = manifest.described
        for key, wanted in self.expected.items():
            if key in found and found[key] != wanted:
                raise UserError(
                    f"the store {self.folder} has {key}={found[key] or 'none'}, this data set expects "
                    f"{wanted or 'none'}: prepare it so, or name another store with [path=...]."
                )


def names() -> tuple[str, ...]:
    """The data sets that have a preset; imports nothing."""
    return tuple(sorted(path.stem for path in _PRESETS.glob("*.toml")))


def get(text: str) -> Dataset:
    """The data set of a name with options, `imagenet256[reference=F.npz]`, or of a file, `my_data.py[n=9]`.

    Raises:
        UserError: for an unknown name or option, and for a file that defines no data set.
    """
    name, options = grammar.split(text)
    if plugin.is_file(name):
        custom = plugin.configured(text, CustomDataset, "data set")
        preset = _CUSTOM | {"shape": custom.shape._asdict()} | dict(custom.preset)
        preset["protocol"] = _CUSTOM["protocol"] | preset["protocol"]
        return Dataset(name, options, preset, None, None, custom)
    if name not in names():
        raise unknown("data set", name, names())
    preset = _preset(name)
    if "store" not in preset:
        grammar.configure(NoOptions, options, f"data set {name}")
        return Dataset(name, options, preset, None, None)
    chosen = grammar.configure(StoreOptions, options, f"data set {name}")
    stores = os.environ.get("ALIGNMENT_BENCH_STORES", "stores")
    folder = Path(chosen.path or f"{stores}/{name}").expanduser()
    reference = Path(chosen.reference).expanduser() if chosen.reference else None
    return Dataset(name, options, preset, folder, reference)


def of_shape(wanted: Shape) -> Dataset | None:
    """The data set whose preset expects x0 of this shape; None if there is none."""
    for name in names():
        expected = _preset(name).get("shape")
        if expected and Shape(**expected) == wanted:
            return get(name)
    return None


@cache
def _preset(name: str) -> dict[str, Any]:
    return tomllib.loads((_PRESETS / f"{name}.toml").read_text(encoding="utf-8"))


@cache
def _content(reference: Path, *stamp: int) -> str:
    """16 hex digits; `stamp` says that a file has changed."""
    if is_npz(reference):
        return sha256(reference)[:16]
    from bench.data.ignored_files import images_in

    container, digest = open_container(reference), hashlib.sha256()
    for key in images_in(container)[0]:
        digest.update(hashlib.sha256(container.read(key)).digest())
    return digest.hexdigest()[:16]
