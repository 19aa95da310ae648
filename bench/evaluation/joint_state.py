"""Sampling of an image together with extra parts of the state, as one vector per sample.

    [image flattened | extras flattened, in the order in which they are attached]

Samplers work element by element, so they need not know of it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from backbones.base import Backbone, Output
from bench.core.seeding import generator


class JointState(nn.Module):
    """A backbone with extras, as a network of one vector per sample: (x_t [B, n], t, label) -> Output."""

    def __init__(self, network: Backbone) -> None:
        super().__init__()
        self.network = network
        self.num_classes = network.num_classes
        size = network.input_size
        self.shapes = {"": (network.channels, size, size)}  # "" is the image
        self.shapes |= {extra.name: extra.shape(size) for extra in network.extras}

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor) -> Output:
        parts = self.split(x_t)
        output = self.network(parts.pop(""), t, label, extras=parts)
        prediction = self.pack({"": output.prediction, **output.extras})
        return Output(prediction, None, output.hidden)

    def pack(self, parts: dict[str, Tensor]) -> Tensor:
        """Part -> [B, ...] as one vector [B, n]."""
        return torch.cat([parts[name].flatten(1) for name in self.shapes], dim=1)

    def split(self, state: Tensor) -> dict[str, Tensor]:
        """The inverse of `pack`."""
        sizes = [torch.Size(shape).numel() for shape in self.shapes.values()]
        pieces = state.split(sizes, dim=1)
        return {
            name: piece.reshape(-1, *shape)
            for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)
        }

    def guided(self, channels: int | None) -> Tensor:
        """What guidance acts on, [n] bool: the first channels of the image (None: all) and extras that ask
        for it."""
        image = torch.zeros(1, *self.shapes[""], dtype=torch.bool)
        image[:, :channels] = True
        parts = {"": image}
        for extra in self.network.extras:
            parts[extra.name] = torch.full((1, *self.shapes[extra.name]), extra.guided)
        return self.pack(parts)[0]

    def extra_streams(self, seed: int, numbers: list[int]) -> dict[str, list[torch.Generator]]:
        """The noise of each extra of each sample, a stream of its own: the image's noise stays as it is."""
        return {
            extra.name: [generator(seed, f"sampling {extra.name}", number) for number in numbers]
            for extra in self.network.extras
        }
