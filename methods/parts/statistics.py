"""Fixed statistics of the patch tokens of a frozen encoder, computed in `build` and stored in buffers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from methods.parts.distances import at_least_float32


class PrincipalAxes(nn.Module):
    """Projection of tokens on the first principal axes of the data, [..., D] -> [..., k].

    The largest entry of each axis is positive, so that signs agree between machines.
    Statistics are kept in float64 and rounded to the precision of what is projected.
    """

    mean: Tensor
    scale: Tensor
    axes: Tensor

    def __init__(self, width: int, components: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(width, dtype=torch.float64))
        self.register_buffer("axes", torch.zeros(components, width, dtype=torch.float64))

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor], *, standardise: bool, whiten: bool) -> None:
        """Compute mean and axes of all tokens.

        Args:
            batches: tokens [..., D] each; if there are none, nothing changes.
            standardise: divide each channel by its (biased) standard deviation before computing the axes.
            whiten: divide the projections by their standard deviation.
        """
        count, total, products = 0, torch.zeros(()), torch.zeros(())
        for batch in batches:
            tokens = batch.flatten(0, -2).double().cpu()
            count += len(tokens)
            total = total + tokens.sum(dim=0)
            products = products + tokens.T @ tokens
        if not count:
            return
        mean = total / count
        covariance = products / count - torch.outer(mean, mean)
        scale = torch.ones_like(mean)
        if standardise:
            scale = covariance.diagonal().clamp(min=1e-12).sqrt()
            covariance = covariance / torch.outer(scale, scale)
        decomposed = torch.linalg.eigh(covariance)  # pyright: ignore
        variances, axes = cast(tuple[Tensor, Tensor], decomposed)  # rising; axes in columns
        axes = axes.T.flip(0)[: len(self.axes)]
        axes = axes * axes.gather(1, axes.abs().argmax(dim=1, keepdim=True)).sign()
        if whiten:
            axes = axes / variances.flip(0)[: len(axes), None].clamp(min=1e-12).sqrt()
        for buffer, values in ((self.mean, mean), (self.scale, scale), (self.axes, axes)):
            buffer.copy_(values)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = at_least_float32(tokens)
        mean, scale, axes = (buffer.to(tokens) for buffer in (self.mean, self.scale, self.axes))
        return ((tokens - mean) / scale) @ axes.T
