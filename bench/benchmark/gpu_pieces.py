"""The pieces of the GPU campaign by name: functions of a device that give a result in JSON.

One that gives None has saved its state and is to be called again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.benchmark import official_code
from bench.benchmark.gpu_checks import compare_with_cpu, look_at_machine
from bench.benchmark.gpu_sizes import REPA, VRPO, Sizes
from bench.benchmark.gpu_study import prepare_images, train_network, train_run
from bench.benchmark.gpu_throughput import time_official, time_sampling, time_training
from bench.data import datasets
from bench.nets.recipes import RECIPES

Piece = Callable[[torch.device], dict[str, Any] | None]


def plan(sizes: Sizes, output: Path, images: str, checkout: Path | None) -> dict[str, Piece]:
    """The pieces by name, in order. Raises UserError if the checkout is none."""
    pieces: dict[str, Piece] = {"machine": look_at_machine}
    for backbone in sizes.checked:
        for method in ("baseline", REPA, "vrpo"):
            pieces[f"check {method} {backbone}"] = partial(compare_with_cpu, method, backbone)
    for backbone in sizes.backbones:
        for compiled in sizes.compiled:
            for method in ("baseline", REPA, VRPO) if backbone.startswith("sit") else ("baseline", REPA):
                name = f"train {method.partition('[')[0]} {backbone}{' compiled' * compiled}"
                pieces[name] = partial(time_training, sizes, method, backbone, compiled)
        for precision in sizes.precisions:
            pieces[f"sample {backbone} {precision}"] = partial(time_sampling, sizes, backbone, precision)
    if checkout:
        code = official_code.kind_of(checkout)
        family = "dit" if code.kind == "dit" else "sit"
        for backbone in (name for name in sizes.backbones if name.startswith(family)):
            pieces[f"official {code.kind} {backbone}"] = partial(time_official, sizes, checkout, backbone)
    if sizes.study_data == "cifar10":
        pieces["study: images"] = partial(prepare_images, images)
        preset = datasets.get(sizes.study_data).preset
        nets = (preset["teacher"], preset["reward_net"], *preset["protocol"]["feature_nets"])
        for net in (name for name in dict.fromkeys(nets) if name in RECIPES and RECIPES[name].epochs):
            pieces[f"study: network {net}"] = partial(train_network, net)
    for method in sizes.study_methods:
        pieces[f"study: {method}"] = partial(train_run, sizes, method, output / "study")
    return pieces
