"""Files that planned runs need and this machine lacks, each with the command that provides it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch

from bench.config import resolve
from bench.config.spec import RunSpec
from bench.core import grammar, machine
from bench.core.errors import MissingAsset
from bench.core.files import in_units
from bench.data import datasets, vae
from bench.data.datasets import Dataset
from bench.nets import metric_nets, table, teachers, weights
from bench.nets.local import RECIPES, local_net, weight_file
from bench.runs import networks


def missing_assets(specs: Sequence[RunSpec]) -> list[str]:
    """One line for each absent store, VAE, encoder, reward network and metric network.

    Raises:
        UserError: for what cannot be fetched or made: an unknown name, a damaged file, a method that cannot
            be built on its backbone.
    """
    return list(dict.fromkeys(line for spec in specs for line in _missing(spec)))


def with_trained_networks(specs: Sequence[RunSpec]) -> list[RunSpec]:
    """The specs with checksums of all feature networks; local networks are trained first if necessary.

    Raises:
        UserError: if one cannot be trained here.
    """
    metric_nets.train_missing(net for spec in specs for net in spec.protocol.feature_nets)
    return [spec.model_copy(update={"protocol": resolve.with_checksums(spec.protocol)}) for spec in specs]


def make_shared(specs: Sequence[RunSpec], device: torch.device) -> None:
    """Make what several runs at once would each make: weights of local networks, caches of features.

    Raises UserError for what cannot be made here.
    """
    from bench.training.frozen import FrozenNets  # takes seconds to import, a plan does without

    made: set[tuple[str, str, str]] = set()
    for spec in specs:
        for name, options in map(grammar.split, networks.required(spec)):
            if name in RECIPES:
                local_net(name)
            architecture, dataset = resolve.architecture(spec.backbone), datasets.get(spec.data)
            text = grammar.join(name, options)
            if options.get("cache") == "true" and (spec.data, spec.backbone, text) not in made:
                made.add((spec.data, spec.backbone, text))
                frozen = FrozenNets(spec, dataset.open(), architecture.grid(dataset.shape.size), device)
                frozen.load_encoder(text)
                for cache in frozen.feature_caches:
                    cache.fill()


def _missing(spec: RunSpec) -> Iterator[str]:
    # Scoring weights with a reference file needs no images of the data set.
    dataset = datasets.get(spec.data)
    storeless = not spec.training.steps and dataset.reference_file is not None
    if not storeless and not dataset.available:
        yield f"the store of {dataset}. Make it: {_prepare(dataset)}"
    for name in _autoencoders(dataset, storeless):
        yield from _refusal(lambda name=name: vae.weight_file(name))
    for name in networks.required(spec):
        find = weights.find if name in table.names("torchvision") else teachers.require
        yield from _refusal(partial(find, name))
        _refuse_without_cache(name)
    for name in spec.protocol.feature_nets:
        yield from _refusal(partial(metric_nets.require, name))
        _refuse_without_cache(name)
        if name in RECIPES and (path := weight_file(name)) and not path.is_file():
            yield f"the weights of {name}, which the run trains first; they decide the name of its folder"


def _refuse_without_cache(text: str) -> None:
    """Raises UserError if weights or features of a network must be cached, and cannot be."""
    name, options = grammar.split(text)
    trained = name in RECIPES and (path := weight_file(name)) and not path.is_file()
    if trained or options.get("cache") == "true":
        machine.refuse_unwritable_cache()


def _refusal(look: Callable[[], object]) -> Iterator[str]:
    try:
        look()
    except MissingAsset as error:
        yield str(error)


def _autoencoders(dataset: Dataset, storeless: bool) -> list[str]:
    """VAEs that are needed to make the store, or only to decode its latents if it exists."""
    if dataset.manifest:
        latents = dataset.manifest.latents
        return [latents.decoder] if latents else []
    expected = dataset.expected
    if storeless and expected.get("decoder"):
        return [expected["decoder"]]
    return [expected[key] for key in ("vae", "decoder") if expected.get(key)]


def _prepare(dataset: Dataset) -> str:
    """The command that makes the store of a preset, and its size if known."""
    store = dataset.expected
    options = {"size": "image_size", "resize": "resize", "vae": "vae", "decoder": "decoder"}
    chosen = [f"--{option} {store[key]}" for option, key in options.items() if store.get(key)]
    command = " ".join(["python -m bench.prepare IMAGES --output", str(dataset.folder), *chosen])
    if "records" not in store:
        return command
    latent = 2 * 4 * store["channels"] * store["size"] ** 2 if store["vae"] else 0
    size = store["records"] * (3 * store["image_size"] ** 2 + latent)
    return f"{command} ({in_units(size)})"
