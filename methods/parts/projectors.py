"""Trainable projectors from hidden states of the backbone to the targets of an alignment."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn


def mlp(*widths: int) -> nn.Sequential:
    """An MLP of linear layers with SiLU in between, [..., widths[0]] -> [..., widths[-1]].

    Xavier-uniform weights and zero bias, as in REPA's released code.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layer = nn.Linear(inputs, outputs)
        layers += [layer, nn.SiLU()]
    projector = nn.Sequential(*layers[:-1])
    for layer in projector:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return projector


class TokenConvolution(nn.Module):
    """A convolution over the grid of tokens, [B, N, D] -> [B, N, D']; tokens are in row-major order."""

    def __init__(self, width: int, target_width: int, grid: tuple[int, int], kernel: int) -> None:
        """`kernel`: odd; zero padding preserves the grid."""
        super().__init__()
        self.grid = grid
        self.convolution = nn.Conv2d(width, target_width, kernel, padding=kernel // 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.convolution(tokens.transpose(1, 2).unflatten(2, self.grid)).flatten(2).transpose(1, 2)
