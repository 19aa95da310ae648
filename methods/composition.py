"""Several methods in one run, `repa+layersync`: losses are summed; state and random streams are separate.

Conflicts are refused: two methods that replace the same loss, set the same field of `Steering`, or declare
extras of the same name. A method with `ride_on` (VRPO) acts on all others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from functools import reduce
from typing import Any, cast

import torch
from torch import Tensor, nn

from backbones.extras import Extra
from methods.base import (
    REWARD_NET,
    BackboneInfo,
    Context,
    Draw,
    EncoderLayers,
    GetEncoder,
    Loss,
    Method,
    Needs,
    Share,
    Steering,
)


def compose(parts: Mapping[str, Method]) -> Method:
    """The combination of several methods, given by name in order.

    Raises:
        ValueError: if they conflict.
    """
    riders = [name for name, part in parts.items() if hasattr(part, "ride_on")]
    ridden = {name: part for name, part in parts.items() if name not in riders}
    if not riders or not ridden:
        return Composition(parts) if len(parts) > 1 else next(iter(parts.values()))
    if len(riders) > 1:
        raise ValueError(f"{' and '.join(riders)} cannot be combined: each acts on all other methods")
    rider: Any = parts[riders[0]]
    rider.ride_on(compose(ridden))
    return rider


class Composition(Method):
    """The sum of several methods. The first uses the random stream of a single method, others their own."""

    def __init__(self, parts: Mapping[str, Method]) -> None:
        self.names = tuple(parts)
        self.parts = nn.ModuleList(parts.values())
        for attribute, verb in (("replaces", "replace"), ("steers", "steer")):
            _refuse_shared({name: getattr(part, attribute) for name, part in parts.items()}, verb)
        self.replaces, self.steers = (  # pyright: ignore[reportAttributeAccessIssue]
            tuple(item for part in parts.values() for item in getattr(part, attribute))
            for attribute in ("replaces", "steers")
        )

    def build(self, backbone: BackboneInfo, encoder: GetEncoder) -> None:
        for place, part in enumerate(self._parts()):
            with torch.random.fork_rng(devices=[], enabled=place > 0):  # pyright: ignore[reportUnknownMemberType]
                if place:
                    torch.manual_seed(_seed(torch.initial_seed(), place))  # pyright: ignore[reportUnknownMemberType]
                part.build(backbone, encoder)
        declared = zip(self.names, self._parts(), strict=True)
        _refuse_shared({name: [extra.name for extra in part.extras()] for name, part in declared}, "declare")

    def needs(self, step: int, steps: int) -> Needs:
        return reduce(united, (part.needs(step, steps) for part in self._parts()))

    def extras(self) -> tuple[Extra, ...]:
        return tuple(extra for part in self._parts() for extra in part.extras())

    def steer(self, draw: Draw) -> Steering:
        found = [
            part.steer(replace(draw, share=own_stream(draw.share, place)))
            for place, part in enumerate(self._parts())
        ]
        merged: dict[str, Any] = {"memo": tuple(steering.memo for steering in found)}
        for name in ("t", "mask", "replace", "extras"):
            values = [
                value for steering in found if (value := getattr(steering, name)) is not None and len(value)
            ]
            if len(values) > 1 and name != "extras":
                raise ValueError(f"two of {' + '.join(self.names)} steer the same field, {name}")
            if values:
                merged[name] = (
                    {k: v for value in values for k, v in value.items()} if name == "extras" else values[0]
                )
        return Steering(**merged)

    def losses(self, context: Context) -> dict[str, Loss]:
        terms: dict[str, Loss] = {}
        memos = cast(tuple[object, ...], context.memo or (None,) * len(self.names))  # of `steer`
        for place, (name, part) in enumerate(zip(self.names, self._parts(), strict=True)):
            own = replace(with_own_stream(context, place), memo=memos[place])
            for term, loss in part.losses(own).items():
                if term in terms and term in context.denoising:
                    raise ValueError(f"two of {' + '.join(self.names)} replace the same loss, {term}")
                terms[f"{term} ({name})" if term in terms else term] = loss
        return terms

    def after_backward(self, total: Callable[[Tensor], Tensor]) -> None:
        for part in self._parts():
            part.after_backward(total)

    def _parts(self) -> Iterable[Method]:
        return cast(Iterable[Method], self.parts)


def united(first: Needs, second: Needs) -> Needs:
    """The union of two needs. Raises ValueError if they need rewards of different networks."""
    both: dict[str, Any] = {}
    for field in fields(Needs):
        ours, theirs = getattr(first, field.name), getattr(second, field.name)
        if isinstance(ours, bool):
            both[field.name] = ours or theirs
        elif field.name not in ("encoder_layers", "reward_net"):
            both[field.name] = _once(ours, theirs)
    layers = {**second.encoder_layers, **first.encoder_layers}
    for name in first.encoder_layers.keys() & second.encoder_layers.keys():
        ours, theirs = first.encoder_layers[name], second.encoder_layers[name]
        kinds = [field.name for field in fields(EncoderLayers)]
        layers[name] = EncoderLayers(*(_once(getattr(ours, kind), getattr(theirs, kind)) for kind in kinds))
    nets = {needs.reward_net for needs in (first, second) if needs.rewards}
    if len(nets) > 1:
        raise ValueError(f"rewards of two networks, {' and '.join(sorted(nets))}")
    return Needs(**both, encoder_layers=layers, reward_net=nets.pop() if nets else REWARD_NET)


def _once(ours: tuple[Any, ...], theirs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys((*ours, *theirs)))


def with_own_stream(context: Context, place: int) -> Context:
    """The context with its own random stream for the method at `place`; the first keeps the given one."""
    if place == 0:
        return context
    share = own_stream(context.share, place)
    return replace(context, generator=share.generator, share=share)


def own_stream(share: Share, place: int) -> Share:
    """The share with its own random stream for the method at `place`."""
    if place == 0:
        return share
    seed = _seed(share.generator.initial_seed(), place)
    return replace(share, generator=torch.Generator().manual_seed(seed))


def _seed(seed: int, place: int) -> int:
    return (seed + place * 0x9E3779B97F4A7C15) % 2**63


def _refuse_shared(claims: Mapping[str, Sequence[str]], verb: str) -> None:
    owners: dict[str, str] = {}
    for name, claimed in claims.items():
        for item in claimed:
            if item in owners:
                raise ValueError(f"{owners[item]} and {name} cannot be combined: both {verb} '{item}'")
            owners[item] = name
