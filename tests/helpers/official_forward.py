"""The official forward passes, written from their equations under the official parameter names.

A second implementation: plain functions of a state dict, nothing of `backbones`, and other routes where there
are two (patches by unfold, attention by softmax, norms and GELU by their formulas). The three releases share
one transformer and differ at its ends:

    dit   embeds the integer DDPM timestep 0..999; returns noise and raw variance
    sit   embeds t in [0, 1], t = 1 is data; returns the velocity towards the data, drops the variance
    repa  embeds t in [0, 1], t = 1 is noise; returns the velocity towards the noise
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]
PROJECTOR_WIDTH = 2048


def dit(state: State, x: Tensor, timestep: Tensor, label: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Noise and variance, [B, C, H, W] each, at integer timesteps [B]."""
    out = _transformer(state, x, timestep, label, heads)
    return out[:, : x.shape[1]], out[:, x.shape[1] :]


def sit(state: State, x: Tensor, t: Tensor, label: Tensor, heads: int) -> Tensor:
    """Velocity d x/dt with t = 1 data: data minus noise for the linear path."""
    return _transformer(state, x, t, label, heads)[:, : x.shape[1]]


def repa(state: State, x: Tensor, t: Tensor, label: Tensor, heads: int) -> Tensor:
    """Velocity d x/dt with t = 1 noise: noise minus data for the linear path."""
    return _transformer(state, x, t, label, heads)


def repa_tokens(
    state: State, x: Tensor, t: Tensor, label: Tensor, heads: int, depth: int
) -> tuple[Tensor, list[Tensor]]:
    """What REPA's network returns: the velocity, and the tokens after `depth` blocks by each projector."""
    hidden: list[Tensor] = []
    velocity = _transformer(state, x, t, label, heads, hidden)
    projected = []
    for i in range(len({key.split(".")[1] for key in state if key.startswith("projectors.")})):
        first = _silu(_linear(state, f"projectors.{i}.0", hidden[depth - 1]))
        projected.append(
            _linear(state, f"projectors.{i}.4", _silu(_linear(state, f"projectors.{i}.2", first)))
        )
    return velocity, projected


def _transformer(
    state: State, x: Tensor, time: Tensor, label: Tensor, heads: int, hidden: list[Tensor] | None = None
) -> Tensor:
    kernel = state["x_embedder.proj.weight"]
    patch = kernel.shape[-1]
    patches = F.unfold(x, patch, stride=patch).transpose(1, 2)  # [B, N, C*p*p], tokens row by row
    tokens = patches @ kernel.flatten(1).T + state["x_embedder.proj.bias"] + state["pos_embed"]

    frequencies = torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float32) / 128)
    angles = time[:, None].to(x.dtype) * frequencies
    features = torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)
    embedded_time = _linear(state, "t_embedder.mlp.2", _silu(_linear(state, "t_embedder.mlp.0", features)))
    condition = _silu(embedded_time + state["y_embedder.embedding_table.weight"][label])

    depth = len({key.split(".")[1] for key in state if key.startswith("blocks.")})
    for block in (f"blocks.{i}" for i in range(depth)):
        steering = _linear(state, f"{block}.adaLN_modulation.1", condition)[:, None].chunk(6, dim=2)
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = steering
        attended = _attention(state, f"{block}.attn", _standardised(tokens) * (1 + scale_1) + shift_1, heads)
        tokens = tokens + gate_1 * attended
        inner = _linear(state, f"{block}.mlp.fc1", _standardised(tokens) * (1 + scale_2) + shift_2)
        tokens = tokens + gate_2 * _linear(state, f"{block}.mlp.fc2", _gelu(inner))
        if hidden is not None:
            hidden.append(tokens)

    shift, scale = _linear(state, "final_layer.adaLN_modulation.1", condition)[:, None].chunk(2, dim=2)
    pixels = _linear(state, "final_layer.linear", _standardised(tokens) * (1 + scale) + shift)
    batch, count, _ = pixels.shape
    columns = pixels.reshape(batch, count, patch * patch, -1).permute(0, 3, 2, 1)  # channel is innermost
    return F.fold(columns.reshape(batch, -1, count), x.shape[-2:], patch, stride=patch)


def _linear(state: State, name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def _silu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def _gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _standardised(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, unbiased=False, keepdim=True) + 1e-6)


def _attention(state: State, name: str, x: Tensor, heads: int) -> Tensor:
    queries, keys, values = _linear(state, f"{name}.qkv", x).chunk(3, dim=-1)
    width = x.shape[-1] // heads
    heads_out = []
    for q, k, v in zip(queries.split(width, -1), keys.split(width, -1), values.split(width, -1), strict=True):
        heads_out.append(torch.softmax(q @ k.transpose(1, 2) / math.sqrt(width), dim=-1) @ v)
    return _linear(state, f"{name}.proj", torch.cat(heads_out, dim=-1))


def shapes(
    depth: int,
    width: int,
    *,
    patch: int,
    input_size: int = 32,
    channels: int = 4,
    classes: int = 1000,
    variance: bool = False,
    projectors: tuple[int, ...] = (),
    projector_width: int = PROJECTOR_WIDTH,
) -> dict[str, tuple[int, ...]]:
    """Key -> shape in an official file; `projectors` are the widths of REPA's encoders."""
    sizes = {
        "pos_embed": (1, (input_size // patch) ** 2, width),
        "x_embedder.proj.weight": (width, channels, patch, patch),
        "x_embedder.proj.bias": (width,),
        "y_embedder.embedding_table.weight": (classes + 1, width),
    }
    linear = {"t_embedder.mlp.0": (width, 256), "t_embedder.mlp.2": (width, width)}
    for block in (f"blocks.{i}" for i in range(depth)):
        linear |= {
            f"{block}.attn.qkv": (3 * width, width),
            f"{block}.attn.proj": (width, width),
            f"{block}.mlp.fc1": (4 * width, width),
            f"{block}.mlp.fc2": (width, 4 * width),
            f"{block}.adaLN_modulation.1": (6 * width, width),
        }
    for i, target in enumerate(projectors):
        linear |= {
            f"projectors.{i}.0": (projector_width, width),
            f"projectors.{i}.2": (projector_width, projector_width),
            f"projectors.{i}.4": (target, projector_width),
        }
    linear["final_layer.linear"] = (patch**2 * channels * (2 if variance else 1), width)
    linear["final_layer.adaLN_modulation.1"] = (2 * width, width)
    for name, shape in linear.items():
        sizes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return sizes


def random_state(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> State:
    """Every tensor random, the zero-initialised ones too, at scales that keep activations near one."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in shapes.items():
        values = torch.randn(shape, generator=generator)
        fan_in = math.prod(shape[1:]) if key.endswith("weight") and "table" not in key else 1
        state[key] = values * (0.1 if key.endswith("bias") else 1 / math.sqrt(fan_in))
    return state
