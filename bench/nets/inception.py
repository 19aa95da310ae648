"""The Inception networks of 2015-12-05, with the preprocessing of each published FID.

    inception          ADM's suite (Dhariwal and Nichol 2021): resized inside the graph by TF1's bilinear rule
    clean              clean-fid (Parmar et al. 2022): PIL's antialiased bicubic in float
    legacy-tensorflow  resized inside the graph, as TensorFlow's FID did
    legacy-pytorch     torch's bilinear without antialias, as pytorch-fid did

The networks and resizers are torch-fidelity's and clean-fid's.
"""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from pickle import UnpicklingError
from tempfile import TemporaryDirectory
from unittest.mock import patch

import torch
from torch import Tensor

from bench.core.errors import UserError
from bench.nets import weights
from bench.nets.base import Activations, first_line, with_channels

GRAPH = "inception-2015-12-05.pt"  # the name under which clean-fid looks for the network
SPATIAL_CHANNELS = 7  # of the 192 of ADM's spatial features: 17 * 17 * 7 = 2023


class AdmInception:
    """The network of the ADM suite: pooled and spatial features, and logits for the Inception Score."""

    name = "inception"
    classifies = True

    def __init__(self, device: torch.device | str = "cpu", file: Path | None = None) -> None:
        """Raises UserError if the weights are absent or of another network."""
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        path = _find(self.name, file)
        _read_parameters(path)  # torch-fidelity unpickles the file without looking
        try:
            self.net = FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path)
            )
        except RuntimeError as error:
            raise UserError(
                f"{path} does not hold the weights of this Inception: {first_line(error)}"
            ) from None
        self.net.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device = device
        self._spatial = torch.empty(0)
        # TF's mixed_6/conv is the 1x1 branch of the block that torchvision calls Mixed_6d, after its ReLU.
        self.net.Mixed_6d.branch1x1.register_forward_hook(self._keep_spatial)

    def _keep_spatial(self, _module: torch.nn.Module, _inputs: object, output: Tensor) -> None:
        # Channels come last, as in the graph: the order of the reference files' mu_s and sigma_s.
        self._spatial = output[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Activations:
        pooled, logits = self.net(with_channels(images.to(self.device), 3, self.name))
        return Activations(pooled, spatial=self._spatial, unbiased_logits=logits)


class CleanFid:
    """The networks and resizers of the three modes of clean-fid."""

    MODES = ("clean", "legacy-pytorch", "legacy-tensorflow")
    classifies = True

    def __init__(self, mode: str, device: torch.device | str = "cpu", file: Path | None = None) -> None:
        """Raises UserError if the weights are absent or cannot be read."""
        from cleanfid.inception_pytorch import InceptionV3
        from cleanfid.inception_torchscript import InceptionV3W
        from cleanfid.resize import build_resizer

        self.name, self.device = mode, device
        self.resize = None if mode == "legacy-tensorflow" else build_resizer(mode.replace("-", "_"))
        if mode == "legacy-pytorch":
            parameters = _read_parameters(_find(mode, file))
            # clean-fid asks the internet for this file; it gets the one that was found and checked.
            found = patch("cleanfid.inception_pytorch.load_state_dict_from_url", lambda *_, **__: parameters)
            with found, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torchvision's, about how clean-fid calls it
                net = InceptionV3(output_blocks=[3], resize_input=False).eval().to(device)
            self.net = lambda x: net(x / 255)[0].flatten(1)
        else:
            path = _find(mode, file)
            try:
                with TemporaryDirectory() as folder, warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # torch's, about TorchScript, which the file is
                    # clean-fid reads a folder's file of this one name.
                    Path(folder, GRAPH).symlink_to(path.resolve())
                    inside = self.resize is None
                    self.net = InceptionV3W(folder, download=False, resize_inside=inside).to(device)
            except RuntimeError as error:
                raise UserError(f"{path} is not a TorchScript Inception: {first_line(error)}") from None

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Activations:
        images = with_channels(images, 3, self.name)
        if self.resize is None:
            resized = images.float()
        else:
            arrays = images.permute(0, 2, 3, 1).cpu().numpy()
            with ThreadPoolExecutor() as pool:  # PIL and torch let other threads work
                resized = torch.stack([torch.from_numpy(x) for x in pool.map(self.resize, arrays)])
            resized = resized.permute(0, 3, 1, 2).contiguous()
        return Activations(self.net(resized.to(self.device)))


def _read_parameters(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of weights, without executing code in it."""
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except (UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(f"{path} is not a file of weights: {first_line(error)}") from None


def _find(name: str, file: Path | None) -> Path:
    return weights.find(name, file, f"or give the file: --net-weights {name}=FILE")
