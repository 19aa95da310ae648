"""Frozen networks that the method of a run is trained against, and metrics that are biased by them.

The needs of a method are known once it is built, so it is built here, with descriptions of encoders only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from bench.config import resolve
from bench.config.spec import RunSpec
from bench.core import grammar
from bench.core.errors import UserError
from bench.core.files import sha256
from bench.data import datasets
from bench.nets import layers, local, table, teachers, weights
from bench.nets.base import NO_LAYERS
from bench.nets.recipes import RECIPES
from bench.nets.rewards import registry
from bench.runs.formats import EvaluationRow
from methods.base import REWARD_NET, TEACHER, BackboneInfo, EncoderInfo, EncoderLayers, Features, Method


def built(spec: RunSpec) -> tuple[Method, dict[str, EncoderInfo]]:
    """The run's method, built without loading an encoder, and the encoders that it asked about.

    Raises:
        UserError: if the method cannot be built on the run's backbone.
    """
    encoders: dict[str, EncoderInfo] = {}
    dataset, architecture = datasets.get(spec.data), resolve.architecture(spec.backbone)
    shape = dataset.shape
    grid = architecture.grid(shape.size)

    def describe(name: str) -> EncoderInfo:
        text = spec.teacher if name == TEACHER else name
        info = teachers.describe(text, dataset.image_size, grid)
        encoders[name] = info._replace(sample=partial(_noise, info))
        return encoders[name]

    info = BackboneInfo(
        architecture.family,
        architecture.depth,
        architecture.width,
        grid,
        architecture.heads,
        architecture.patch,
        shape.channels,
        shape.classes,
    )
    method = resolve.method(spec.method)
    with torch.random.fork_rng(devices=[]):
        try:
            method.build(info, describe)
        except ValueError as error:
            raise UserError(f"{spec.method} on {spec.backbone}: {error}") from None
    return method, encoders


def required(spec: RunSpec) -> tuple[str, ...]:
    """Encoders, reward networks and teachers of a run's method, such as `dinov2-b[weights=FILE]`.

    Raises:
        UserError: if the method cannot be built on the run's backbone.
    """
    method, encoders = built(spec)
    needs = method.needs(0, spec.training.steps)
    for name, asked in needs.encoder_layers.items():
        layers.refuse(encoders[name], asked)
    named = {
        TEACHER: spec.teacher,
        registry.TEACHER: next(iter(needs.encoders), TEACHER),
        registry.CHOSEN: spec.reward_net if needs.reward_net == REWARD_NET else needs.reward_net,
    }
    rewards = [registry.entry(name).network for name in needs.rewards]
    found = [named.get(name, name) for name in (*encoders, *needs.encoders, *rewards) if name]
    return tuple(dict.fromkeys(named.get(name, name) for name in found))


def refuse_images(spec: RunSpec) -> None:
    """Raises UserError if a local network of method or metrics does not support the images."""
    dataset = datasets.get(spec.data)
    channels = 3 if dataset.folder else dataset.shape.channels  # stores hold RGB, even of latents
    names = [grammar.split(text)[0] for text in required(spec)]
    for name in (*names, *spec.protocol.feature_nets):
        if name in RECIPES:
            local.refuse_images(name, channels, dataset.image_size)


def _noise(info: EncoderInfo, count: int, asked: EncoderLayers = NO_LAYERS) -> Iterator[Features]:
    """Random features, for methods that compute statistics of them in `build`."""
    draw, tokens = torch.Generator().manual_seed(0), info.grid[0] * info.grid[1]

    def noise(*shape: int) -> Tensor:
        return torch.randn(min(count, 32), *shape, generator=draw)

    yield Features(
        noise(tokens, info.width),
        noise(info.width),
        {layer: noise(tokens, info.width) for layer in asked.hidden},
        {layer: noise(info.heads, tokens, tokens) for layer in asked.attention},
        {layer: (noise(tokens, info.width), noise(tokens, info.width)) for layer in asked.keys_values},
    )


def leaky(spec: RunSpec, earlier: Sequence[EvaluationRow] = ()) -> tuple[str, ...]:
    """Metric networks that the method was trained against, whose metrics are biased for this run.

    Networks are identified by their weights, not their names (`table.identity`, or the content of a file of
    the user). If the file of the run's method has changed, the result is read from `earlier` evaluations.
    Raises UserError if there are none.
    """
    try:
        if resolve.method_source(spec.method) != spec.method_source:
            raise UserError(f"the method file of {spec.run_id} was changed since: restore it.")
        used = [grammar.split(text) for text in required(spec)]
        used += [(name, {}) for name in (spec.weights.trained_against if spec.weights else ())]
    except UserError:
        if earlier:
            return earlier[0].leaky
        raise
    identities = {table.identity(name) for name, _ in used}
    files = {sha256(weights.find(name, o["weights"])) for name, o in used if "weights" in o}
    return tuple(
        net
        for net in spec.protocol.feature_nets
        if table.identity(net) in identities or (files and _content(net) in files)
    )


def _content(net: str) -> str:
    """The checksum of the weights of a metric network; "" if it has no file."""
    if table.network(net).library in ("local", "fixed"):
        return ""
    return sha256(weights.find(net))
