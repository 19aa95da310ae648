"""What the runs of a plan need and this machine does not have, each with the command that brings it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bench.config import resolve
from bench.config.spec import RunSpec
from bench.core.errors import UserError
from bench.core.files import in_units
from bench.data import datasets, vae
from bench.data.datasets import Dataset
from bench.evaluation.protocol_checks import WEIGHTS
from bench.nets import teachers
from bench.nets.weights import locate
from methods.base import TEACHER, BackboneInfo, EncoderInfo


def missing(specs: list[RunSpec]) -> list[str]:
    """A line for every store, VAE, encoder and metric net that is absent, none twice."""
    return list(dict.fromkeys(line for spec in specs for line in _missing(spec)))


def _missing(spec: RunSpec) -> Iterator[str]:
    # Scoring weights against a file takes no images of the data set.
    dataset = datasets.get(spec.data)
    storeless = not spec.training.steps and dataset.reference_file is not None
    if not storeless and not dataset.available:
        yield f"the store of {dataset}. Make it: {_prepare(dataset)}"
    for name in _autoencoders(dataset, storeless):
        yield from _refusal(lambda name=name: vae.weight_file(name))
    for name in _encoders(spec):
        yield from _refusal(lambda name=name: teachers.require(name))
    for name in spec.protocol.feature_nets:
        if name in WEIGHTS:
            yield from _refusal(lambda name=name: locate(name, WEIGHTS[name]))


def _refusal(look: Callable[[], object]) -> Iterator[str]:
    try:
        look()
    except UserError as error:
        yield str(error)


def _autoencoders(dataset: Dataset, storeless: bool) -> list[str]:
    """What the store needs to be made; of one that is there, or does without, what decodes its latents."""
    if dataset.manifest:
        latents = dataset.manifest.latents
        return [latents.decoder] if latents else []
    expected = dataset.expected
    if storeless and expected.get("decoder"):
        return [expected["decoder"]]
    return [expected[key] for key in ("vae", "decoder") if expected.get(key)]


def _prepare(dataset: Dataset) -> str:
    """The command that makes the store of a preset, and what it will take on disk where that is known."""
    store = dataset.expected
    options = {"size": "image_size", "resize": "resize", "vae": "vae", "decoder": "decoder"}
    chosen = [f"--{option} {store[key]}" for option, key in options.items() if store.get(key)]
    command = " ".join(["python -m bench.prepare IMAGES --output", str(dataset.folder), *chosen])
    if "records" not in store:
        return command
    latent = 2 * 4 * store["channels"] * store["size"] ** 2 if store["vae"] else 0
    size = store["records"] * (3 * store["image_size"] ** 2 + latent)
    return f"{command} ({in_units(size)})"


def _encoders(spec: RunSpec) -> list[str]:
    """The encoders that the method of a run loads, found by building it with descriptions alone."""
    asked: list[str] = []
    shape, architecture = datasets.get(spec.data).shape, resolve.architecture(spec.backbone)
    side = shape.size // architecture.patch

    def describe(name: str) -> EncoderInfo:
        asked.append(spec.teacher if name == TEACHER else name)
        return EncoderInfo(name, 1, (side, side))

    info = BackboneInfo(architecture.family, architecture.depth, architecture.width, (side, side))
    resolve.method(spec.method).build(info, describe)
    return asked
