"""Recipes of the small networks of this suite: teachers, reward networks and metric networks of small images.

A teacher must never score its own method, so the networks of a data set differ in architecture and in seed.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Recipe:
    """What makes a local net; any change makes another net, with another fingerprint."""

    data: str
    widths: tuple[int, ...]  # channels of the convolutions
    pool_after: tuple[int, ...]  # the convolutions after which the map is halved
    kernel: int
    activation: str
    seed: int
    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 2e-3
    shift: int = 1  # pixels at most, of the augmentation
    mirror: bool = False  # half of the batches are seen in a mirror: for what has no handedness
    required_accuracy: float = 0.97  # on the held-out part

    @property
    def fingerprint(self) -> str:
        """12 hex digits."""
        decisive = {key: value for key, value in asdict(self).items() if key != "required_accuracy"}
        return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:12]


def _natural(
    data: str,
    widths: tuple[int, ...],
    pool_after: tuple[int, ...],
    kernel: int,
    activation: str,
    *,
    seed: int,
    accuracy: float,
    epochs: int = 5,
) -> Recipe:
    """A net of CIFAR-10's photographs: minutes on one core."""
    return Recipe(
        data,
        widths,
        pool_after,
        kernel,
        activation,
        seed,
        epochs=epochs,
        batch_size=128,
        learning_rate=4e-3,
        shift=2,
        mirror=True,
        required_accuracy=accuracy,
    )


RECIPES = {
    "digits-teacher": Recipe("digits", (32, 64, 64, 96), (2,), kernel=3, activation="relu", seed=11),
    "digits-untrained": Recipe(  # a control: the teacher's architecture that has learnt nothing
        "digits", (32, 64, 64, 96), (2,), kernel=3, activation="relu", seed=47, epochs=0
    ),
    "digits-cnn": Recipe("digits", (24, 48, 64), (1,), kernel=5, activation="gelu", seed=23),
    "cifar10-teacher": _natural("cifar10", (32, 64, 64), (1,), 3, "relu", seed=71, epochs=3, accuracy=0.5),
    "cifar10-cnn": _natural("cifar10", (24, 48, 96), (1, 2), 5, "gelu", seed=73, epochs=3, accuracy=0.5),
    "cifar10-16-reward": _natural("cifar10-16", (32, 64, 64, 96), (1, 3), 3, "relu", seed=61, accuracy=0.6),
    "cifar10-16-cnn": _natural("cifar10-16", (32, 64, 128), (1, 2), 5, "gelu", seed=67, accuracy=0.6),
}
