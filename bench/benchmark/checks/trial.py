"""Trials: short training runs on the digits, for checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.config import resolve
from bench.core.parallel import UNDIVIDED, Parallelism
from bench.training.trainer import Trainer

CPU = torch.device("cpu")
DATA = "digits"
STEPS = 4
BATCH_SIZE = 8
# Adam's first steps have the learning rate's length whatever the gradient's: a small one leaves no room for
# rounding to grow.
LEARNING_RATE = 1e-5
State = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class Trial:
    """A method on a backbone, named as on the command line."""

    method: str
    backbone: str

    def trainer(self, parallelism: Parallelism = UNDIVIDED, after: State | None = None) -> Trainer:
        """The trainer at its start, or at a given state."""
        training = {
            "steps": 60,
            "batch_size": BATCH_SIZE,
            "learning_rate": LEARNING_RATE,
            "log_every": 1,
            "precision": "fp32",
        }
        spec = resolve.run_spec(self.method, self.backbone, DATA, 0, training=training)
        trainer = Trainer(spec, CPU, parallelism)
        if after is not None:
            trainer.load_state(after)
        return trainer

    def train(
        self,
        steps: range = range(STEPS),
        parallelism: Parallelism = UNDIVIDED,
        after: State | None = None,
    ) -> tuple[State, list[dict[str, Any]]]:
        """The state after some steps and the rows of these, without logs."""
        trainer = self.trainer(parallelism, after)
        rows = [trainer.step(step) for step in steps]
        return trainer.state(), [{key: row[key] for key in ("loss", "raw", "grad_norm")} for row in rows]


def first_difference(found: State, expected: State, *, tolerance: float = 0.0) -> str:
    """The name of the first tensor of a state that differs by more than a relative tolerance; "" if none."""
    for part, tensors in expected.items():
        if found[part].keys() != tensors.keys():
            return f"the entries of {part}"
        for name, tensor in tensors.items():
            distance = (found[part][name].double() - tensor.double()).norm()
            if not distance <= tolerance * tensor.double().norm() + 1e-7 * (tolerance > 0):
                return f"{part} {name}"
    return ""


def rows_differ(found: list[dict[str, Any]], expected: list[dict[str, Any]], tolerance: float = 2e-4) -> str:
    """Which number of the rows differs, and at which step; "" if none by more than a relative tolerance."""
    for step, (one, other) in enumerate(zip(found, expected, strict=True), start=1):
        pairs = {
            "loss": (one["loss"], other["loss"]),
            "gradient norm": (one["grad_norm"], other["grad_norm"]),
        }
        pairs |= {f"loss term {name}": (one["raw"].get(name), value) for name, value in other["raw"].items()}
        for name, (a, b) in pairs.items():
            if a is None or not abs(float(a) - float(b)) <= tolerance * abs(float(b)) + 2e-5:
                value = "absent" if a is None else f"{float(a):.6g}"
                return f"{name} of step {step}: {value}, not {float(b):.6g}"
    return ""
