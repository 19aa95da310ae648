"""Reference statistics that samples are compared with, from images or a file.

Files are `.npz` without pickled objects. Two layouts are read:
    ADM's   arr_0 [M, H, W, 3] uint8 and/or mu [2048], sigma (pooled), mu_s [2023], sigma_s (spatial).
            Statistics are used if present, and images then only for precision and recall; a file with
            only mu and sigma (clean-fid, pytorch-fid) is used for the only network
    ours    NET/mean, NET/covariance, NET/spatial_mean, NET/spatial_covariance, NET/features for each net
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.core.errors import UserError
from bench.core.files import replacing
from bench.core.progress import progress_bar
from bench.data import datasets
from bench.data.base import Records
from bench.data.containers import is_npz
from bench.data.image_files import open_archive, open_images
from bench.evaluation.accumulator import FeatureAccumulator, extract
from bench.metrics.frechet import Gaussian
from bench.nets.base import FeatureNet

BATCH_SIZE = 64  # images per pass; results do not depend on it
ADM = "inception"  # the network of ADM's statistics
_MEAN = "/mean"  # suffix of an array that every network of our layout has


@dataclass(frozen=True)
class Reference:
    """Statistics of the reference images for one feature network."""

    gaussian: Gaussian
    spatial: Gaussian | None = None
    features: Tensor | None = None  # [M, D] float32; None: no precision, recall or KID


def reference_of(
    nets: Sequence[FeatureNet], batches: Iterable[Tensor], total: int = 0
) -> dict[str, Reference]:
    """Reference of images [B, C, H, W] uint8, by name of the network; `total` > 0 shows progress."""
    seen = {net.name: FeatureAccumulator() for net in nets}
    with progress_bar(total, 0, "reference", "img") if total else nullcontext() as bar:
        for batch in batches:
            for part in batch.split(BATCH_SIZE):
                index = torch.arange(len(part)) + seen[nets[0].name].count
                for net in nets:
                    seen[net.name].update(extract(net, part), None, index)
                if bar is not None:
                    bar.update(len(part))
    return {
        name: Reference(part.gaussian, part.spatial and part.spatial.gaussian, part.features)
        for name, part in seen.items()
    }


def reference_of_data(name: str, data: Records, nets: Sequence[FeatureNet]) -> dict[str, Reference]:
    """The reference of a data set: the file in its name, else its reference images."""
    file = datasets.get(name).reference_file
    if file is not None:
        return read_reference(file, nets)
    images, _ = data.reference()
    return reference_of(nets, [images])


def read_reference(path: Path, nets: Sequence[FeatureNet]) -> dict[str, Reference]:
    """The reference of a folder or zip of images, or of a file in either layout.

    Raises:
        UserError: if a part is missing, damaged, or of another network.
    """
    if not is_npz(path):
        images = open_images(path)
        return reference_of(nets, images.batches(BATCH_SIZE), total=images.count)
    with open_archive(path) as arrays:
        names = set(arrays.files)
        if any(name.endswith(_MEAN) for name in names):
            return {net.name: _saved(path, arrays, net.name) for net in nets}
        has_statistics, has_images = {"mu", "sigma"} <= names, "arr_0" in names
        if not has_statistics and not has_images:
            raise UserError(
                f"the reference {path} has neither images (arr_0) nor statistics (mu and sigma); "
                f"it has {', '.join(sorted(names)) or 'nothing'}."
            )
        described = {ADM} if has_images or len(nets) > 1 else {nets[0].name}
        undescribed = [net.name for net in nets if net.name not in described]
        if not has_images and undescribed:
            raise UserError(
                f"the reference {path} has statistics of one net and no images (arr_0): "
                f"it cannot be used for {', '.join(undescribed)}."
            )
        gaussian = _gaussian(path, arrays, "mu", "sigma") if has_statistics else None
        spatial = _gaussian(path, arrays, "mu_s", "sigma_s") if {"mu_s", "sigma_s"} <= names else None
    references: dict[str, Reference] = {}
    if has_images:
        images = open_images(path)
        references = reference_of(nets, images.batches(BATCH_SIZE), total=images.count)
    if gaussian is not None:
        for name in described & {net.name for net in nets}:
            features = references[name].features if has_images else None
            references[name] = Reference(gaussian, spatial, features)
    return references


def write_reference(path: Path, references: Mapping[str, Reference]) -> None:
    """Save the reference statistics, to be read instead of the images."""
    arrays: dict[str, np.ndarray] = {}
    for name, reference in references.items():
        arrays[f"{name}/mean"], arrays[f"{name}/covariance"] = (
            part.cpu().numpy() for part in reference.gaussian
        )
        if reference.spatial is not None:
            mean, covariance = reference.spatial
            arrays[f"{name}/spatial_mean"] = mean.cpu().numpy()
            arrays[f"{name}/spatial_covariance"] = covariance.cpu().numpy()
        if reference.features is not None:
            arrays[f"{name}/features"] = reference.features.cpu().numpy()
    try:
        with replacing(path) as unfinished, open(unfinished, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        raise UserError(f"cannot write the reference {path}: {error.strerror or error}.") from None


def _saved(path: Path, arrays: np.lib.npyio.NpzFile, net: str) -> Reference:
    names = set(arrays.files)
    if net + _MEAN not in names:
        known = sorted(name.removesuffix(_MEAN) for name in names if name.endswith(_MEAN))
        raise UserError(f"the reference {path} was made for {', '.join(known)}, not for {net}.")
    gaussian, spatial, features = _gaussian(path, arrays, f"{net}/mean", f"{net}/covariance"), None, None
    if f"{net}/spatial_mean" in names:
        spatial = _gaussian(path, arrays, f"{net}/spatial_mean", f"{net}/spatial_covariance")
    if f"{net}/features" in names:
        features = torch.from_numpy(_array(path, arrays, f"{net}/features")).float()
        if features.ndim != 2 or features.shape[1] != len(gaussian.mean):
            raise UserError(
                f"{net}/features of the reference {path} have shape {tuple(features.shape)}, not "
                f"(M, {len(gaussian.mean)}) as its mean."
            )
    return Reference(gaussian, spatial, features)


def _gaussian(path: Path, arrays: np.lib.npyio.NpzFile, mean: str, covariance: str) -> Gaussian:
    parts = []
    for name in (mean, covariance):
        parts.append(torch.from_numpy(_array(path, arrays, name)).double())
    if parts[1].shape != (*parts[0].shape, *parts[0].shape) or parts[0].ndim != 1:
        shapes = f"{tuple(parts[0].shape)} and {tuple(parts[1].shape)}"
        raise UserError(
            f"{mean} and {covariance} of the reference {path} have shapes {shapes}, not (D,) and (D, D)."
        )
    if not torch.allclose(parts[1], parts[1].T, rtol=1e-4, atol=1e-6 * parts[1].abs().max().item()):
        raise UserError(f"{covariance} of the reference {path} is not symmetric: it is no covariance.")
    return Gaussian(parts[0], parts[1])


def _array(path: Path, arrays: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    """An array of finite floats."""
    try:
        array = arrays[name]
    except Exception as error:  # absent, a pickled object, encrypted, cut off
        reason = f"cannot be read: {error or type(error).__name__}"
        raise UserError(f"{name} of the reference {path} {reason}.") from None
    if not np.issubdtype(array.dtype, np.floating):
        raise UserError(f"{name} of the reference {path} is {array.dtype}; it must be float32 or float64.")
    if not np.isfinite(array).all():
        raise UserError(f"{name} of the reference {path} holds NaN or infinity: the file is damaged.")
    return array
