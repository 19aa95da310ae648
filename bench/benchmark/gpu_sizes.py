"""What the GPU campaign times and trains, in full and as a toy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

REPA, VRPO = "repa", "vrpo[perceptual=0,semantic_reward=latent]"  # VRPO as it can be trained on latents


@dataclass(frozen=True)
class Sizes:
    """What is timed and trained."""

    backbones: tuple[str, ...]
    data: str  # whose shape the random inputs of timings have
    batch_size: int  # halved until it fits
    warm_up: int
    repeats: int
    sampled: int  # images
    sampling_steps: int
    checked: tuple[str, ...]  # backbones compared with the CPU
    study_backbone: str
    study_methods: tuple[str, ...]
    compiled: tuple[bool, ...] = (False, True)
    precisions: tuple[str, ...] = ("fp32", "tf32", "bf16")  # of sampling
    study_training: Mapping[str, Any] = field(default_factory=dict)
    study_protocol: Mapping[str, Any] = field(default_factory=dict)
    study_data: str = "cifar10"


FULL = Sizes(
    backbones=("sit-s", "sit-b", "sit-l", "sit-xl", "dit-xl"),
    data="imagenet256",
    batch_size=256,
    warm_up=3,
    repeats=10,
    sampled=64,
    sampling_steps=50,
    checked=("sit-ti", "dit-ti"),
    study_backbone="sit-s/2",
    study_methods=("baseline", "repa[align_until=0.5,weight=2.0]", "vrpo"),
)
TOY = Sizes(
    backbones=("sit-pico/4", "dit-pico/4"),
    data="digits",
    batch_size=4,
    warm_up=0,
    repeats=1,
    sampled=2,
    sampling_steps=2,
    checked=("sit-pico/4",),
    study_backbone="sit-pico/4",
    study_methods=("baseline", "repa[align_until=0.5,weight=2.0]", "vrpo"),
    compiled=(False,),  # a compiler takes longer than all the rest
    precisions=("bf16",),
    study_training={"steps": 2, "batch_size": 8, "precision": "fp32"},
    study_protocol={"samples": 10, "sampler_flow": "euler[steps=2]", "feature_nets": ("pixels",)},
    study_data="digits",
)
