"""A trained run opened for looking at it: its spec, its sampled weights, its data and process."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file

import backbones
from backbones.blocks import Transformer
from bench.config import resolve
from bench.config.spec import RunSpec
from bench.core.errors import UserError
from bench.data import datasets
from bench.data.base import Records
from bench.diffusion.objectives import Process


@dataclass(frozen=True)
class LoadedRun:
    """What a run has come to."""

    folder: Path
    spec: RunSpec
    step: int
    seconds: float  # of training so far
    flops: int
    model: Transformer  # the weights that the protocol samples from, in eval mode
    data: Records
    process: Process


def load(folder: Path, device: torch.device, kept: int | None = None) -> LoadedRun:
    """The run in this folder, at its last checkpoint, or at a step that was kept for its evaluation.

    Raises UserError where the folder is no run of this version, or has no checkpoint that can be read.
    """
    try:
        spec = RunSpec.model_validate_json((folder / "spec.json").read_text())
    except OSError:
        raise UserError(f"{folder} is not the folder of a run: it has no spec.json.") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{folder} is a run of another version: {where} of its spec.json: {first['msg']}."
        ) from None
    if kept is None:
        saved = sorted((folder / "checkpoints").glob("step-*"))
    else:
        saved = list((folder / "kept").glob(f"step-{kept:08d}"))
    if not saved and (kept is not None or spec.training.steps):
        which = "checkpoint yet" if kept is None else f"kept weights of step {kept}"
        raise UserError(f"{folder} has no {which}: let the run reach one.")
    data = datasets.get(spec.data).open()
    model = backbones.build(
        resolve.architecture(spec.backbone),
        input_size=data.size,
        channels=data.channels,
        num_classes=data.classes,
    )
    part = "ema" if spec.protocol.weights == "ema" else "backbone"
    path = saved[-1] / f"{part}.safetensors" if saved else folder / "ema.safetensors"
    state = {"step": 0, "seconds": 0.0, "flops": 0}  # of a run that only evaluates
    try:
        model.load_state_dict(load_file(path))
        if saved:
            state = json.loads((saved[-1] / "state.json").read_text())
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise UserError(f"the checkpoint {path} cannot be read: {str(error).splitlines()[0]}") from None
    model.eval().requires_grad_(False).to(device)
    process = resolve.process(spec.process)
    return LoadedRun(folder, spec, state["step"], state["seconds"], state["flops"], model, data, process)
