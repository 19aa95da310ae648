"""Loading of runs: specification, network, data and diffusion process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

import backbones
from backbones import checkpoints
from backbones.base import Backbone
from backbones.extras import Extra
from bench.config import resolve
from bench.config.spec import RunSpec
from bench.core.errors import UserError
from bench.data import datasets
from bench.data.base import Records
from bench.diffusion.objectives import Process
from bench.runs import checkpoint
from bench.runs.formats import Counters
from bench.runs.record import RunRecord


@dataclass(frozen=True)
class LoadedRun:
    """A run at one of its checkpoints."""

    folder: Path
    spec: RunSpec
    counters: Counters
    model: Backbone  # the weights that the protocol samples from, in eval mode
    data: Records
    process: Process


def load(folder: Path, device: torch.device, kept: int | None = None) -> LoadedRun:
    """The run in this folder, at its last checkpoint, or at a step that was kept for its evaluation.

    Raises:
        UserError: if the folder is no run of this version, has no checkpoint yet, or a damaged one.
    """
    spec = RunRecord(folder).spec()
    if kept is None:
        saved = checkpoint.complete(folder / "checkpoints")
    else:
        saved = [path for path in checkpoint.complete(folder / "kept") if path.name == checkpoint.name(kept)]
    if not saved and (kept is not None or spec.training.steps):
        which = "checkpoint yet" if kept is None else f"kept weights of step {kept}"
        raise UserError(f"{folder} has no {which}: let the run reach one.")
    part = "ema" if spec.protocol.weights == "ema" else "backbone"
    if saved:
        path = saved[-1]
        parts, counters = checkpoint.load(path, [part])
        state = parts[part]
        extras = tuple(Extra(**extra) for extra in counters.extras)
    else:  # a run that only evaluates has its initial weights and no checkpoint
        path, counters = folder / "ema.safetensors", Counters()
        try:
            state, extras = load_file(path), checkpoints.stored_extras(path)
        except (OSError, SafetensorError, ValueError) as error:
            raise UserError(f"the weights {path} cannot be read: {str(error).splitlines()[0]}.") from None
    data = datasets.get(spec.data).open()
    if resolve.backbone_source(spec.backbone) != spec.backbone_source:
        raise UserError(
            f"{spec.backbone} is no longer the file that {folder} was trained with: restore that version."
        )
    model = backbones.build(
        resolve.architecture(spec.backbone),
        input_size=data.size,
        channels=data.channels,
        num_classes=data.classes,
        extras=extras,
    )
    try:
        model.load_state_dict(state)
    except RuntimeError:  # other names or shapes of tensors
        raise UserError(f"{path} was written by another version of the code: train the run anew.") from None
    model.eval().requires_grad_(False).to(device)
    return LoadedRun(folder, spec, counters, model, data, resolve.process(spec.process))
