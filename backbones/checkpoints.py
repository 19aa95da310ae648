"""Weight files: official DiT, SiT and REPA checkpoints (`.pt`, read) and our own (`.safetensors`).

All returned networks follow the convention of the suite: t = 0 is data, t = 1 is noise.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType]: PathLike

import backbones
from backbones import FAMILIES, diffusers_dit
from backbones.base import Architecture, Backbone
from backbones.extras import Extra
from backbones.official import read_official
from backbones.weights import Weights, expected_shapes, refuse_differences

HEADER = "alignment-bench"  # our entry in the header of a safetensors file
MODEL = "model.safetensors"  # the file in the folder of a published model


def located(path: str | Path) -> Path:
    """The file of weights in the folder of a published or diffusers model; a file is itself.

    Raises:
        ValueError: a folder without such a file.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    names = [MODEL, *diffusers_dit.FILES, *(f"transformer/{file}" for file in diffusers_dit.FILES)]
    found = next((path / name for name in names if (path / name).is_file()), None)
    if found is None:
        raise ValueError(f"{path} has none of {', '.join(names)}: name the file of weights itself")
    return found


def weights(path: str | Path, family: str | None = None) -> Weights:
    """Read a file of weights: `.safetensors` is ours, any other (`.pt`, `.pth`, `.ckpt`, `.bin`) official;
    beside a `config.json` of diffusers it is diffusers'.

    Args:
        path: the file.
        family: "sit", "repa", "dit" or "diffusers", the code that wrote the file; None: read from the file.

    Raises:
        ValueError: one line, for a file that is missing, of another kind, or refused by its reader.
    """
    path = located(path)
    if family == "diffusers" or (family is None and diffusers_dit.is_diffusers(path)):
        return diffusers_dit.read(path)
    ours = path.suffix.lower() == ".safetensors"
    return _read_ours(path) if ours else read_official(path, family=family)


def save(path: str | Path, network: Backbone, process: str = "") -> None:
    """Write a network as safetensors, with its architecture in the header; atomic.

    Args:
        path: the file.
        network: the network.
        process: the diffusion process it was trained on, such as "flow[path=gvp]"; "": unknown.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(path)
    description: dict[str, Any] = {
        "architecture": _described(network.architecture),
        "input_size": network.input_size,
        "channels": network.channels,
        "num_classes": network.num_classes,
    }
    if network.extras:
        description["extras"] = [asdict(extra) for extra in network.extras]
    if process:
        description["process"] = process
    state = {key: value.detach().contiguous() for key, value in network.state_dict().items()}
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(state, unfinished, metadata={HEADER: json.dumps(description)})
        unfinished.replace(path)
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}") from None
    finally:
        unfinished.unlink(missing_ok=True)


def load(path: str | Path) -> Backbone:
    """The network in a file of `save`. Raises ValueError if it is damaged or of another program."""
    return _read_ours(Path(path)).build()


def stored_extras(path: str | Path) -> tuple[Extra, ...]:
    """The extra parts of the state of the network in a file of `save`.

    Raises:
        ValueError: if it is damaged or of another program.
    """
    try:
        description = json.loads(_header(path)[HEADER])
        return tuple(Extra(**extra) for extra in description.get("extras", ()))
    except Exception as error:  # safetensors, json and dataclasses raise many kinds for a damaged header
        raise ValueError(f"{path} cannot be read as this suite's weights: {error}.") from None


def _header(path: str | Path) -> dict[str, str]:
    opened: Any = safe_open(path, framework="pt")  # its stub has no types
    with opened as file:
        return file.metadata() or {}


def _described(architecture: Architecture) -> dict[str, Any]:
    return {"family": backbones.family(architecture.name), "source": architecture.source} | asdict(
        architecture
    )


def _read_ours(path: Path) -> Weights:
    try:
        header, state = _header(path), load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read as safetensors: {error}.") from None
    try:
        sizes = json.loads(header[HEADER])
        described, process = sizes.pop("architecture"), sizes.pop("process", "")
        source = described.pop("source", "")
        sizes["extras"] = tuple(Extra(**extra) for extra in sizes.get("extras", ()))
    except Exception:  # any malformed header
        raise ValueError(f"{path} was not written by this suite: no network in its header.") from None
    if source.endswith(".py"):  # a weight file must not decide which code is executed
        raise ValueError(
            f"{path} is of the backbone file {source}: move that file into backbones/ and train it by its "
            "name, so that its weights can be read."
        )
    try:
        architecture = _architecture(described, source)
        expected = expected_shapes(architecture, **sizes)
    except Exception:  # any malformed header
        raise ValueError(f"{path} was not written by this suite: no network in its header.") from None
    refuse_differences(path, architecture, expected, state)
    found = f"{architecture.name}, saved by this suite"
    return Weights(architecture, **sizes, state=state, found=found, process=process)


def _architecture(described: dict[str, Any], source: str) -> Architecture:
    family = described.pop("family")
    if source:
        return backbones.load(source)(**described)
    if family not in FAMILIES:
        raise ValueError(f"unknown family {family}")
    return type(backbones.architecture(f"{family}-{described['size']}"))(**described)
