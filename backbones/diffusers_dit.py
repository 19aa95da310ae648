"""DiT as the class `DiTTransformer2DModel` of diffusers computes it; reads and writes its checkpoints.

It departs from DiT's own code in two places, so that weights of one are not exactly weights of the other:

    frequencies of the time embedding   w_i = 10000^(-i/127), i = 0..127; DiT's own code divides by 128
    second norm of a block              its epsilon is an option, 1e-5 by default; DiT's own code has 1e-6

Names: diffusers keeps queries, keys and values apart, and a copy of the embeddings of time and class in every
block; only networks whose copies are equal are read, as all converted ones are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType]: PathLike
from torch import Tensor, nn

from backbones.base import Architecture, Backbone
from backbones.blocks import FREQUENCIES, Block, position_table
from backbones.dit import DiT
from backbones.transformer import TransformerArchitecture
from backbones.weights import State, Weights, expected_shapes, foreign_content, refuse_differences

CLASS = "DiTTransformer2DModel"
CONFIG = "config.json"
FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
# Values that this network has; another one is refused.
FIXED = {
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "norm_type": "ada_norm_zero",
    "norm_elementwise_affine": False,
}
DEFAULTS = {  # of the class; a config may leave them out
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "in_channels": 4,
    "out_channels": None,
    "num_layers": 28,
    "sample_size": 32,
    "patch_size": 2,
    "num_embeds_ada_norm": 1000,
    "norm_eps": 1e-5,
}
# Ours -> theirs, in block 0 where every block has a copy.
_OUTER = {
    "x_embedder.proj": "pos_embed.proj",
    "t_embedder.mlp.0": "transformer_blocks.0.norm1.emb.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "transformer_blocks.0.norm1.emb.timestep_embedder.linear_2",
    "y_embedder.embedding_table": "transformer_blocks.0.norm1.emb.class_embedder.embedding_table",
    "final_layer.adaLN_modulation.1": "proj_out_1",
    "final_layer.linear": "proj_out_2",
}
_INNER = {
    "adaLN_modulation.1": "norm1.linear",
    "attn.proj": "attn1.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
}
_QKV = ("attn1.to_q", "attn1.to_k", "attn1.to_v")


class DiffusersDiTArchitecture(Architecture):
    """Options: `norm_eps`, of the second norm of a block; `learned_variance`, a second set of channels."""

    process = "ddpm"
    source = family = "diffusers_dit"
    # What a DiT of this suite may have and diffusers' has not.
    qk_norm: ClassVar[bool] = False
    rms_norm: ClassVar[bool] = False
    rope: ClassVar[bool] = False
    swiglu: ClassVar[bool] = False

    depth: int = 28
    width: int = 1152
    heads: int = 16
    patch: int = 2
    learned_variance: bool = True
    norm_eps: float = 1e-5

    def build(self, *, input_size: int, channels: int, num_classes: int) -> DiffusersDiT:
        """Officially initialised. Raises ValueError if the patch does not divide the image."""
        return DiffusersDiT(self, input_size=input_size, channels=channels, num_classes=num_classes)


class DiffusersDiT(DiT):
    """Predicts noise and raw variance, [B, C, H, W] each."""

    def __init__(self, architecture: DiffusersDiTArchitecture, **sizes: int) -> None:
        super().__init__(cast(TransformerArchitecture, architecture), **sizes)
        self.t_embedder.intervals = FREQUENCIES // 2 - 1
        for block in self.blocks:
            assert isinstance(block, Block)
            block.norm2 = nn.LayerNorm(
                architecture.width, eps=architecture.norm_eps, elementwise_affine=False
            )


def is_diffusers(path: Path) -> bool:
    """Whether the `config.json` beside a file of weights is of this class."""
    try:
        return json.loads((path.parent / CONFIG).read_bytes()).get("_class_name") == CLASS
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


def read(path: Path) -> Weights:
    """Weights and `config.json` of a folder that `DiTTransformer2DModel.save_pretrained` wrote.

    Raises ValueError, one line, for files that are missing, damaged or of another network.
    """
    config = _config(path.parent / CONFIG)
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    except Exception as error:  # damaged files fail in many ways
        reason = foreign_content(error) or str(error).partition("\n")[0]
        raise ValueError(f"{path} cannot be read as weights: {reason}.") from None
    depth, channels = config["num_layers"], config["in_channels"]
    architecture = DiffusersDiTArchitecture(
        depth=depth,
        width=config["num_attention_heads"] * config["attention_head_dim"],
        heads=config["num_attention_heads"],
        patch=config["patch_size"],
        learned_variance=(config["out_channels"] or channels) == 2 * channels,
        norm_eps=config["norm_eps"],
    )
    sizes = {
        "input_size": config["sample_size"],
        "channels": channels,
        "num_classes": config["num_embeds_ada_norm"],
    }
    ours = _ours(path, state, depth)
    side = config["sample_size"] // config["patch_size"]
    ours["pos_embed"] = position_table(architecture.width, side)
    refuse_differences(path, architecture, expected_shapes(architecture, **sizes), ours)
    image = "inputs {channels} x {input_size} x {input_size}, {num_classes} classes and null".format(**sizes)
    found = f"{architecture.name}, {CLASS} of diffusers; {image}"
    return Weights(architecture, **sizes, state=ours, found=found)


def write(folder: Path, network: Backbone) -> None:
    """Write a folder that `DiTTransformer2DModel.from_pretrained` reads.

    Raises ValueError for a network that is not of this kind, and OSError.
    """
    if not isinstance(network, DiffusersDiT):
        raise ValueError(
            f"{network.architecture.name} is no network of diffusers, whose {CLASS} embeds time with other "
            "frequencies: train --backbone diffusers_dit[width=...,depth=...] to publish in its format"
        )
    architecture = cast(DiffusersDiTArchitecture, network.architecture)
    channels = network.channels
    config = {"_class_name": CLASS} | FIXED
    config |= {
        "num_attention_heads": architecture.heads,
        "attention_head_dim": architecture.width // architecture.heads,
        "in_channels": channels,
        "out_channels": channels * (2 if architecture.learned_variance else 1),
        "num_layers": architecture.depth,
        "sample_size": network.input_size,
        "patch_size": architecture.patch,
        "num_embeds_ada_norm": network.num_classes,
        "norm_eps": architecture.norm_eps,
        "dropout": 0.0,
    }
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".{FILES[0]}.{os.getpid()}"
    try:
        save_file(_theirs(network.state_dict(), architecture.depth), unfinished, metadata={"format": "pt"})
        unfinished.replace(folder / FILES[0])
    finally:
        unfinished.unlink(missing_ok=True)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_bytes())
        kind = config.get("_class_name")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}, which says what the weights are of, cannot be read: {error}.") from None
    if kind != CLASS:
        raise ValueError(f"{path} is of the class {kind}; only {CLASS} is read.")
    for key, value in FIXED.items():
        if config.get(key, value) != value:
            raise ValueError(f"{path} has {key}={config[key]}; only {value} is read.")
    return DEFAULTS | config


def _ours(path: Path, theirs: Mapping[str, Tensor], depth: int) -> State:
    """Their tensors by our names; others keep theirs, so that they are found unexpected."""
    left = dict(theirs)
    left.pop("pos_embed.pos_embed", None)  # fixed; files of some versions hold it
    _merge_copies(path, left, depth)
    ours: State = {}
    for our, their in _pairs(depth):
        for kind in ("weight", "bias"):
            if f"{their}.{kind}" in left:
                ours[f"{our}.{kind}"] = left.pop(f"{their}.{kind}")
    for block in range(depth):
        for kind in ("weight", "bias"):
            names = [f"transformer_blocks.{block}.{part}.{kind}" for part in _QKV]
            if all(name in left for name in names):
                ours[f"blocks.{block}.attn.qkv.{kind}"] = torch.cat([left.pop(name) for name in names])
    return ours | left


def _merge_copies(path: Path, theirs: dict[str, Tensor], depth: int) -> None:
    """Keep block 0's embeddings of time and class alone. Raises ValueError if those of another differ."""
    for name in [name for name in theirs if name.startswith("transformer_blocks.0.norm1.emb.")]:
        for block in range(1, depth):
            copied = theirs.pop(name.replace("blocks.0.", f"blocks.{block}.", 1), None)
            if copied is None or not torch.equal(copied, theirs[name]):
                raise ValueError(
                    f"{path}: block {block} embeds time and class differently from block 0 ({name}); only "
                    "networks with one embedding for all blocks are read, as DiT is defined."
                )


def _theirs(ours: Mapping[str, Tensor], depth: int) -> State:
    theirs = {
        f"{their}.{kind}": ours[f"{our}.{kind}"]
        for our, their in _pairs(depth)
        for kind in ("weight", "bias")
        if f"{our}.{kind}" in ours
    }
    for block in range(depth):
        for kind in ("weight", "bias"):
            parts = ours[f"blocks.{block}.attn.qkv.{kind}"].chunk(3)
            for name, part in zip(_QKV, parts, strict=True):
                theirs[f"transformer_blocks.{block}.{name}.{kind}"] = part
    for name in [name for name in theirs if name.startswith("transformer_blocks.0.norm1.emb.")]:
        for block in range(1, depth):
            theirs[name.replace("blocks.0.", f"blocks.{block}.", 1)] = theirs[name]
    return {name: value.detach().clone().contiguous() for name, value in theirs.items()}


def _pairs(depth: int) -> list[tuple[str, str]]:
    """Our and their names of all modules that are one to one."""
    inner = [
        (f"blocks.{block}.{our}", f"transformer_blocks.{block}.{their}")
        for block in range(depth)
        for our, their in _INNER.items()
    ]
    return [*_OUTER.items(), *inner]
