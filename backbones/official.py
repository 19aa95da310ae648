"""Reader of official DiT, SiT and REPA checkpoints, converted to the conventions of this suite.

In official SiT t = 1 is data and the velocity f points towards the data, so that

    v(x, t) = -f(x, 1 - t).

The weights are converted once, on reading. The sign is absorbed in the last layer. The time features of 1 - t
are a linear map of those of t, which is absorbed in the layer that follows them:

    cos w(1 - t) = cos w · cos wt + sin w · sin wt
    sin w(1 - t) = sin w · cos wt - cos w · sin wt
"""

from __future__ import annotations

import argparse
import math
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

import backbones
from backbones import SIZES
from backbones.arguments import (
    PATHS,
    PREDICTIONS,
    Argument,
    arguments,
    families,
    is_mapping,
    is_sequence,
    meanings,
)
from backbones.blocks import sinusoids
from backbones.transformer import TransformerArchitecture
from backbones.weights import NAMED, State, Weights, expected_shapes, foreign_content, refuse_differences

OFFICIAL = {"sit": "SiT's official code", "repa": "REPA's code or a fork", "dit": "DiT's official code"}
# Parameters from which sizes are read, and their number of dimensions.
TELLING = {
    "x_embedder.proj.weight": 4,
    "pos_embed": 3,
    "y_embedder.embedding_table.weight": 2,
    "final_layer.linear.weight": 2,
}
# Parts of names added by compilation, data parallelism, FSDP and activation checkpointing.
WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_AVERAGED = re.compile(r"ema\w*|\w+[^h]ema|shadow")  # but not "schema"
NOT_AVERAGED = {"online", "raw"}  # beside an average, in a dictionary called after it
OF_OPTIMISER = {"opt", "optim", "optimizer", "optimizers", "grad", "grads", "gradients", "momentum"}
NESTED = 4  # depth of nested dictionaries that is searched


class Found(NamedTuple):
    """A set of named parameters somewhere in a file."""

    place: str  # e.g. "ema" or "state_dict: net."; "" for bare parameters
    state: State

    @property
    def words(self) -> list[str]:
        """The words of the place in lower case, `["ema", "online", "model"]` of `ema: onlineModel.`."""
        return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", self.place)]

    @property
    def averaged(self) -> bool:
        """Whether these are averages, by the last word that tells."""
        told = [word for word in self.words if word in NOT_AVERAGED or _AVERAGED.fullmatch(word)]
        return bool(told) and told[-1] not in NOT_AVERAGED

    @property
    def of_optimiser(self) -> bool:
        return bool(OF_OPTIMISER.intersection(self.words)) or "exp_avg" in self.place


@torch.no_grad()
def read_official(path: str | Path, *, family: str | None = None) -> Weights:
    """Weights written by the code of SiT, REPA or DiT, converted to the conventions of this suite.

    The parameters may be anywhere in the file; if there are several sets, the EMA is used. Sizes are inferred
    from shapes, path and prediction from the training arguments in the file. The unused variance channels of
    SiT are dropped. Nothing in the file is executed. Warns if the file does not record the path of a SiT or
    REPA network.

    Args:
        path: the file, `.pt` or `.pth`.
        family: "sit", "repa" or "dit". Names and shapes are the same for all three, so it is required unless
            projectors or arguments in the file determine it.

    Raises:
        ValueError: the file cannot be read, its family is unknown or contradicted by the file, or its
            parameters are not exactly those of one network; the message names the first differences.
    """
    path = Path(path)
    if family not in (None, *OFFICIAL):
        raise ValueError(f"unknown family '{family}' for {path}. Known: {', '.join(OFFICIAL)}.")
    content = _unpickled(path)
    found = list(_states(content))
    origin, state = _parameters(path, content, found)
    stored = list(arguments(content))
    aligned = any(key.startswith("projectors.") for one in found for key in one.state)
    projectors = {key: state.pop(key) for key in list(state) if key.startswith("projectors.")}
    aligned |= any(key.startswith("decoder_blocks.") for key in state)  # early files
    state = _renumbered(state)
    possible = {"repa"} if aligned else families(stored)
    told = next(iter(possible)) if len(possible) == 1 else None
    architecture, sizes = _read_off(path, "dit" if (family or told) == "dit" else "sit", state)
    refuse_differences(path, architecture, expected_shapes(architecture, **sizes), state)
    # What follows computes: weights that are stored in half precision must not be rounded again.
    state = {key: value.float() if value.element_size() < 4 else value for key, value in state.items()}
    pathed = any(argument.name == "path_type" for argument in stored)
    if pathed and family == "dit":
        warnings.warn(
            f"{path} was trained with a path_type, which DiT's official code does not have; it is read as "
            "DiT all the same.",
            stacklevel=2,
        )
    family = _agreed_family(path, family, possible - {"dit"} if pathed and not family else possible)
    if family == "repa" and architecture.learned_variance:
        raise ValueError(
            f"{path} has variance channels, which REPA's networks do not: if SiT's own code wrote it, its "
            "time runs the other way; say 'sit'."
        )
    kind, prediction = _process(path, family, stored)

    changes = [f"{len({key.split('.')[1] for key in projectors})} projectors set apart"] if projectors else []
    if family == "sit" and architecture.learned_variance:
        architecture = replace(architecture, learned_variance=False)
        state = _without_variance(state, architecture.patch, sizes["channels"])
        changes.append("unused variance channels dropped")
    if family == "sit":
        state = turned(state, opposite=prediction == "velocity")
        what = "time and velocity" if prediction == "velocity" else "time"
        changes.append(f"{what} turned round, so that t = 1 is noise")
    if kind:
        changes.append(f"trained on {kind}")
    image = "inputs {channels} x {input_size} x {input_size}, {num_classes} classes and null".format(**sizes)
    return Weights(
        architecture,
        input_size=sizes["input_size"],
        channels=sizes["channels"],
        num_classes=sizes["num_classes"],
        state=state,
        found="; ".join([f"{architecture.name} by {OFFICIAL[family]}, {origin}", image, *changes]),
        process=kind,
        projectors={key.removeprefix("projectors."): value for key, value in projectors.items()},
    )


def _unpickled(path: Path) -> dict[str, Any]:
    try:
        # Training scripts store their arguments with the weights. Files are memory-mapped, since only one of
        # model, EMA and optimiser is used.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from None
    except Exception as error:  # damaged files raise many kinds of errors
        reason = foreign_content(error) or "it is damaged, or another kind of file"
        raise ValueError(f"{path} cannot be read as PyTorch weights: {reason}.") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__} instead of parameters by name.")
    return cast(dict[str, Any], content)


def _parameters(path: Path, content: dict[str, Any], found: list[Found]) -> tuple[str, State]:
    """(place in the file, parameters by official name), of the EMA if there are several sets."""
    found = [one for one in found if not one.of_optimiser]
    if not found:
        raise ValueError(f"{path} holds no parameters of a DiT or SiT; it has {_listing(content)}.")
    averaged = [one for one in found if one.averaged] or list(_shadow_states(content, found[0].state))
    chosen = averaged[0] if averaged else _only(path, found)
    if len({one.place for one in averaged if not _equal(one.state, chosen.state)}) > 0:
        places = ", ".join(f"'{one.place}'" for one in averaged)
        warnings.warn(f"{path} holds several averages, {places}: the first is read.", stacklevel=3)
    if not chosen.place:
        return "its bare parameters", chosen.state
    kind = "EMA" if chosen.averaged else "model without EMA"
    return f"its {kind} ('{chosen.place}')", chosen.state


def _only(path: Path, found: list[Found]) -> Found:
    """The one set of parameters, or the one called "model" among several. Raises ValueError."""
    distinct = [found[0], *(one for one in found[1:] if not _equal(one.state, found[0].state))]
    named = [one for one in distinct if "model" in one.words or not one.place]
    if len(distinct) > 1 and len(named) != 1:
        places = ", ".join(f"'{one.place}'" for one in distinct)
        raise ValueError(
            f"{path} holds several networks, {places}, and none of them is called EMA or model: save the one "
            "that is meant as {'model': ...}."
        )
    return named[0] if len(distinct) > 1 else distinct[0]


def _equal(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def _states(content: Mapping[Any, Any], place: str = "", level: int = 0) -> Iterator[Found]:
    """Every set of parameters with a patch embedding, outermost first."""
    named = {
        ".".join(part for part in str(key).split(".") if part not in WRAPPERS): value
        for key, value in content.items()
        if isinstance(value, Tensor) and value.numel() > 1  # no counters
    }
    first = next(iter(TELLING))
    for prefix in [key.removesuffix(first) for key in named if key == first or key.endswith(f".{first}")]:
        state = {key.removeprefix(prefix): named[key] for key in named if key.startswith(prefix)}
        yield Found(": ".join(filter(None, (place, prefix))), state)
    for key, value in content.items():
        if is_mapping(value) and level < NESTED:
            yield from _states(value, ".".join(filter(None, (place, str(key)))), level + 1)


def _shadow_states(content: Mapping[Any, Any], model: State) -> Iterator[Found]:
    """Averages stored as a list, `shadow_params`, in the order of the parameters of the model."""
    # Some averages omit the position table, which is not trained.
    for names in (list(model), [name for name in model if name != "pos_embed"]):
        for name, shadow in arguments(content):
            if name != "shadow_params" or not is_sequence(shadow):
                continue
            shapes = [getattr(value, "shape", None) for value in shadow]
            if shapes == [model[name].shape for name in names]:
                yield Found("shadow_params", model | dict(zip(names, shadow, strict=True)))


def _listing(content: Mapping[Any, Any]) -> str:
    """The first keys of a file and of its dictionaries, for an error message."""
    if not content:
        return "no entries"
    shown: list[str] = []
    for key, value in list(content.items())[: 2 * NAMED]:
        inside = list(map(str, value))[:NAMED] if is_mapping(value) else []
        shown.append(f"{key} ({', '.join(inside)}, ...)" if inside else str(key))
    more = len(content) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _agreed_family(path: Path, family: str | None, possible: set[str]) -> str:
    known = ", ".join(f"'{one}' ({code})" for one, code in OFFICIAL.items() if one in (possible or OFFICIAL))
    if family and possible and family not in possible:
        only = len(possible) == 1
        advice = f"say {known.partition(' (')[0]}, or leave the family out" if only else f"say one of {known}"
        of = f"of {OFFICIAL[next(iter(possible))]}, not" if only else "not"
        raise ValueError(f"{path} is {of} of '{family}', as its projectors or arguments say: {advice}.")
    if family:
        return family
    if len(possible) == 1:
        return next(iter(possible))
    raise ValueError(f"{path} fits several families alike; say its family: {known}.")


def _process(path: Path, family: str, stored: list[Argument]) -> tuple[str, str]:
    """(process as typed, "" for that of DiT; prediction of the network)."""
    if family == "dit":
        return "", "noise"
    kind = _told(path, stored, "path_type", PATHS)
    prediction = _told(path, stored, "prediction", PREDICTIONS)
    if kind is None and prediction is None:
        warnings.warn(
            f"{path} does not say on which path and prediction it was trained; it is taken for linear and "
            "velocity. For another, give --process, e.g. flow[path=gvp].",
            stacklevel=2,
        )
        return "", "velocity"
    kind, prediction = kind or "linear", prediction or "velocity"
    predicted = "" if prediction == "velocity" else f",prediction={prediction}"
    return f"flow[path={kind}{predicted}]", prediction


def _told(path: Path, stored: list[Argument], name: str, known: Mapping[str, str]) -> str | None:
    told = meanings(stored, name, known)
    if len({*told.values()}) > 1 or None in told.values():
        raise ValueError(
            f"{path} was trained with {name} {' and '.join(told)}; only one of {', '.join(known)} is read."
        )
    return next(iter(told.values()), None)


def _depth(state: State) -> int:
    return 1 + max((int(key.split(".")[1]) for key in state if re.match(r"blocks\.\d+\.", key)), default=-1)


def _renumbered(state: State) -> State:
    """Early REPA files number the blocks after the aligned one from 0, as `decoder_blocks`."""
    aligned = _depth(state)

    def number(match: re.Match[str]) -> str:
        return f"blocks.{aligned + int(match[1])}."

    return {re.sub(r"^decoder_blocks\.(\d+)\.", number, key): value for key, value in state.items()}


def _read_off(path: Path, family: str, state: State) -> tuple[TransformerArchitecture, dict[str, int]]:
    """The architecture inferred from the shapes, and the other arguments of `backbones.build`."""
    lacking = [key for key, rank in TELLING.items() if key not in state or state[key].ndim != rank]
    if lacking:
        held = ", ".join(list(state)[:NAMED])
        raise ValueError(f"{path} is no DiT or SiT: it lacks {', '.join(lacking)} and has {held}, ...")
    width, channels, patch, _ = state["x_embedder.proj.weight"].shape
    depth, side = _depth(state), math.isqrt(state["pos_embed"].shape[1])
    size = next((size for size, shape in SIZES.items() if shape[:2] == (depth, width)), None)
    if size is None:
        known = ", ".join(f"{size} {depth} of {width}" for size, (depth, width, _) in SIZES.items())
        raise ValueError(f"{path} has {depth} blocks of width {width}, which is no known size: {known}.")
    architecture = backbones.architecture(
        f"{family}-{size}/{patch}",
        learned_variance=state["final_layer.linear.weight"].shape[0] == 2 * channels * patch**2,
        qk_norm=any(".attn.q_norm." in key for key in state),
    )
    rows = state["y_embedder.embedding_table.weight"].shape[0]
    return architecture, {"input_size": side * patch, "channels": channels, "num_classes": rows - 1}


def _without_variance(state: State, patch: int, channels: int) -> State:
    """Drop half of the outputs: a pixel of a patch has `channels` of velocity, then as many of variance."""
    last = {key: value for key, value in state.items() if key.startswith("final_layer.linear.")}
    return state | {
        key: value.reshape(patch**2, 2, channels, *value.shape[1:])[:, 0].flatten(0, 1)
        for key, value in last.items()
    }


def turned(state: State, *, opposite: bool) -> State:
    """Weights of v(x, t) = -f(x, 1 - t), see above; the sign only if `opposite`. Computed in float64.

    Its own inverse: of our weights it makes those of SiT's official code.
    """
    cos, sin = sinusoids(torch.ones(1, dtype=torch.float64)).chunk(2, dim=1)
    first = state["t_embedder.mlp.0.weight"]
    of_cos, of_sin = first.double().chunk(2, dim=1)
    turned = torch.cat([of_cos * cos + of_sin * sin, of_cos * sin - of_sin * cos], dim=1)
    last = {key: -value for key, value in state.items() if key.startswith("final_layer.linear.") and opposite}
    return state | {"t_embedder.mlp.0.weight": turned.to(first.dtype)} | last
