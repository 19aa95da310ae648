"""Inception weight files with random contents, for comparing libraries that read the same file."""

from pathlib import Path
from unittest.mock import patch

import torch
from torch import nn
from torch_fidelity import feature_extractor_inceptionv3 as torch_fidelity


def save_parameters(path: Path) -> Path:
    """A file as torch-fidelity and pytorch-fid read it."""
    with (
        patch.object(torch_fidelity, "load_state_dict_from_url", lambda *_, **__: {}),
        patch.object(torch_fidelity.FeatureExtractorInceptionV3, "load_state_dict"),
    ):
        net = torch_fidelity.FeatureExtractorInceptionV3("random", ["2048"])
    draw = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, generator=draw)
        elif isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=draw)
            module.running_var.uniform_(0.5, 1.5, generator=draw)
    net.fc.weight.normal_(0, 0.2, generator=draw)
    torch.save(net.state_dict(), path)
    return path


class _Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 2048, kernel_size=5, stride=12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.convolution(x)).mean(dim=(2, 3))


class _Graph(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = _Layers()

    def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        return self.layers((nn.functional.interpolate(x, size=[299, 299]) - 128) / 128)


def save_torchscript(folder: Path) -> Path:
    """A file as clean-fid reads it: the interface of the published graph, around a single convolution."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.jit.script(_Graph()).save(folder / "inception-2015-12-05.pt")
    return folder / "inception-2015-12-05.pt"
