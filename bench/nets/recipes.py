"""Recipes of the small networks of this suite: teachers, reward networks and metric networks of small images.

A teacher must not score its own method, so the networks of a data set differ in architecture and seed.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

QUARTERS = (0, 1, 2, 3)  # turns of the task "rotations"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Definition of a local network; any change results in another fingerprint."""

    data: str
    seed: int
    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 2e-3
    shift: int = 1  # pixels at most, of the augmentation
    mirror: bool = False  # half of the batches are mirrored: for data without left-right asymmetry
    required_accuracy: float = 0.97  # on the held-out part
    # What it classifies: the classes of the data set; or by how many quarters an image is turned, without
    # labels (Gidaris et al. 2018, arXiv 1803.07728).
    task: Literal["classes", "rotations"] = "classes"

    def outputs(self, classes: int) -> int:
        """Number of logits, for a data set with so many classes."""
        return classes if self.task == "classes" else len(QUARTERS)

    @property
    def fingerprint(self) -> str:
        """Hash of the recipe, 12 hex digits."""
        training = {field.name for field in fields(Recipe)} - {"data"}
        content = asdict(self)
        order = ["data", *(key for key in content if key not in training | {"data"}), *content]
        decisive = {key: content[key] for key in order if key != "required_accuracy"}
        if self.task == "classes":  # fingerprints are older than this field
            del decisive["task"]
        return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:12]


@dataclass(frozen=True, kw_only=True)
class ConvolutionalRecipe(Recipe):
    """Convolutions with batch norm."""

    widths: tuple[int, ...]  # channels of the convolutions
    pool_after: tuple[int, ...]  # the convolutions after which the map is halved
    kernel: int
    activation: str


@dataclass(frozen=True, kw_only=True)
class TransformerRecipe(Recipe):
    """A vision transformer with a class token."""

    width: int
    depth: int
    heads: int
    patch: int  # pixels
    mlp_ratio: float = 2.0


def _natural(data: str, seed: int, accuracy: float, epochs: int = 5, **architecture: Any) -> Recipe:
    """A network for CIFAR-10; minutes of training on one core."""
    return ConvolutionalRecipe(
        data=data,
        seed=seed,
        epochs=epochs,
        batch_size=128,
        learning_rate=4e-3,
        shift=2,
        mirror=True,
        required_accuracy=accuracy,
        **architecture,
    )


_DIGITS = {"widths": (32, 64, 64, 96), "pool_after": (2,), "kernel": 3, "activation": "relu"}
RECIPES: dict[str, Recipe] = {
    "digits-teacher": ConvolutionalRecipe(data="digits", **_DIGITS, seed=11),
    # Control: the architecture of the teacher, untrained.
    "digits-untrained": ConvolutionalRecipe(data="digits", **_DIGITS, seed=47, epochs=0),
    "digits-cnn": ConvolutionalRecipe(
        data="digits", widths=(24, 48, 64), pool_after=(1,), kernel=5, activation="gelu", seed=23
    ),
    "digits-vit": TransformerRecipe(
        data="digits", width=64, depth=4, heads=4, patch=2, seed=29, epochs=50, required_accuracy=0.95
    ),
    "cifar10-teacher": _natural(
        "cifar10", 71, 0.5, 3, widths=(32, 64, 64), pool_after=(1,), kernel=3, activation="relu"
    ),
    "cifar10-cnn": _natural(
        "cifar10", 73, 0.5, 3, widths=(24, 48, 96), pool_after=(1, 2), kernel=5, activation="gelu"
    ),
    "cifar10-16-reward": _natural(
        "cifar10-16", 61, 0.6, widths=(32, 64, 64, 96), pool_after=(1, 3), kernel=3, activation="relu"
    ),
    "cifar10-16-cnn": _natural(
        "cifar10-16", 67, 0.6, widths=(32, 64, 128), pool_after=(1, 2), kernel=5, activation="gelu"
    ),
    # A judge that has seen no label.
    "cifar10-16-rotation": _natural(
        "cifar10-16",
        79,
        0.5,
        10,
        widths=(32, 64, 96, 128),
        pool_after=(1, 2),
        kernel=3,
        activation="silu",
        task="rotations",
    ),
}
