"""Speed of a backbone's forward and backward pass: python -m bench.benchmark.network --backbone sit-s sit-b

Beside it a straightforward network of the same function, written here from timm's modules, and the share
of the device's own matrix-product speed that the pass reaches (model FLOP utilisation: forward FLOPs x 3
over time over the measured speed of a large matrix product in the same precision). Networks are timed in
turn, A B A B, so that other load on the machine falls on all of them alike.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from bench.benchmark import alternating, new_table, now, print_table, with_spread
from bench.core.cli import Device, parse
from bench.core.errors import exit_code

if TYPE_CHECKING:
    import torch
    from torch import nn

    from backbones.base import Backbone


@dataclass(frozen=True)
class Options:
    """Networks and number of repetitions."""

    backbone: tuple[str, ...] = ("sit-s",)
    """backbones, as for bench.run"""
    input_size: int = 32
    """rows and columns of the input; 32 is ImageNet-256 in latents"""
    channels: int = 4
    """channels of the input"""
    batch_size: int = 8
    """images per batch"""
    precision: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
    """bf16: autocast"""
    compile: bool = False
    """also time our network with torch.compile"""
    device: Device = "auto"
    warm_up: int = 2
    """untimed repeats"""
    repeats: int = 7
    """timed repeats"""


def main() -> None:
    """Time every combination and print a table."""
    options = parse(Options, __doc__)

    import torch

    import backbones
    from bench.config import resolve
    from bench.core import machine
    from bench.core.machine import matrix_product_speed

    device = machine.select_device(options.device)
    table = new_table(
        f"forward + backward, {machine.hardware(device)}, batch {options.batch_size}, "
        f"{options.channels} x {options.input_size} x {options.input_size}",
        ["backbone", "network", "precision"],
        ["ms", "img/s", "FLOP utilisation"],
    )
    for name in options.backbone:
        architecture = resolve.architecture(name)
        ours = backbones.build(
            architecture, input_size=options.input_size, channels=options.channels, num_classes=1000
        ).to(device)
        networks: dict[str, nn.Module] = {"ours": ours, "timm reference": reference(ours).to(device)}
        if options.compile:
            networks["ours, compiled"] = torch.compile(ours)  # type: ignore[assignment]
        flops = 3 * options.batch_size * architecture.flops(options.input_size, options.channels)
        for precision in options.precision:
            peak = matrix_product_speed(device, precision, now)
            for kind, seconds in time_passes(networks, options, device, precision).items():
                table.add_row(
                    name,
                    kind,
                    precision,
                    with_spread([1e3 * value for value in seconds]),
                    with_spread([options.batch_size / value for value in seconds]),
                    f"{flops / statistics.median(seconds) / peak:.0%}",
                )
    print_table(table)


def time_passes(
    networks: Mapping[str, nn.Module], options: Options, device: torch.device, precision: str
) -> dict[str, list[float]]:
    """Seconds of each forward and backward pass of every network, in turn, on one random batch."""
    import torch

    size = options.batch_size
    x = torch.randn(size, options.channels, options.input_size, options.input_size, device=device)
    t, label = torch.rand(size, device=device), torch.randint(1000, (size,), device=device)

    def work(network: nn.Module) -> None:
        network.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            prediction = network(x, t, label).prediction
        prediction.float().square().mean().backward()

    works = {kind: partial(work, network) for kind, network in networks.items()}
    return alternating(works, device, options.warm_up, options.repeats)


def reference(network: Backbone) -> nn.Module:
    """The same network with blocks of timm's Attention and Mlp, in the simplest way."""
    import copy

    from timm.layers.attention import Attention
    from timm.layers.mlp import Mlp
    from torch import nn

    class PlainBlock(nn.Module):
        def __init__(self, width: int, heads: int) -> None:
            super().__init__()
            self.norm1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
            self.norm2 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
            self.attn = Attention(width, num_heads=heads, qkv_bias=True)
            self.mlp = Mlp(width, 4 * width, act_layer=lambda: nn.GELU(approximate="tanh"))  # type: ignore
            self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

        def forward(self, x: torch.Tensor, c: torch.Tensor, *_: None) -> tuple[torch.Tensor, None]:
            parts = self.adaLN_modulation(c).chunk(6, dim=1)
            shift1, scale1, gate1, shift2, scale2, gate2 = (part.unsqueeze(1) for part in parts)
            x = x + gate1 * self.attn(self.norm1(x) * (1 + scale1) + shift1)
            return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2), None

    plain = copy.deepcopy(network)
    architecture = network.architecture
    for depth, block in enumerate(network.blocks):
        plain.blocks[depth] = PlainBlock(architecture.width, architecture.heads)
        plain.blocks[depth].load_state_dict(block.state_dict())
    return plain


if __name__ == "__main__":
    sys.exit(exit_code(main))
