"""Speed and memory of metrics compared with torch-fidelity and scipy: python -m bench.benchmark.metrics

Features are random, of Inception's size and with a decaying spectrum; weights are random too, so nothing is
downloaded. Each implementation runs in a new process, whose peak memory is reported as well.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from bench.benchmark import new_table, now, print_table
from bench.core.cli import Device, parse
from bench.core.errors import exit_code

if TYPE_CHECKING:
    from torch import Tensor

Part = Literal["statistics", "distance", "neighbours", "pass"]


@dataclass(frozen=True)
class Options:
    """What is timed."""

    samples: int = 50_000
    """features of generated images"""
    reference: int = 10_000
    """features of reference images"""
    dimension: int = 2048
    """of the features"""
    images: int = 32
    """images of the metric pass, 256 x 256"""
    batch_size: int = 32
    """images per batch in the metric pass"""
    parts: tuple[Part, ...] = ("statistics", "distance", "neighbours", "pass")
    """statistics: features to covariance (torch-fidelity, clean-fid and ADM use numpy's); distance: two
    covariances to a Frechet distance; neighbours: precision and recall; pass: images to features"""
    device: Device = "auto"


class Timing(NamedTuple):
    """An implementation of a part."""

    seconds: float
    memory: float  # GB of main memory at the peak of the process, features or images included
    result: str


def main() -> None:
    """Time all implementations and print a table."""
    options = parse(Options, __doc__)

    from bench.core import machine

    device = machine.select_device(options.device)
    figures = ["seconds", "relative", "img/s", "peak GB", "result"]
    size = f"{options.samples:,} x {options.dimension} against {options.reference:,}"
    table = new_table(f"{machine.hardware(device)}, {size}", ["part", "way"], figures)
    for part in options.parts:
        first = 0.0
        for way, work in WAYS[part].items():
            timing = _in_fresh_process(work, options, str(device))
            first = first or timing.seconds
            rate = f"{options.images / timing.seconds:.3g}" if part == "pass" else ""
            relative = f"{timing.seconds / first:.2f}"
            table.add_row(
                part, way, f"{timing.seconds:.3g}", relative, rate, f"{timing.memory:.2f}", timing.result
            )
    print_table(table)


def _in_fresh_process(work: Callable[[Options, str], Timing], options: Options, device: str) -> Timing:
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, options, device).result()


def _timed(work: Callable[[], str], device: str = "cpu") -> Timing:
    import torch

    start = now(torch.device(device))
    result = work()
    seconds = now(torch.device(device)) - start
    scale = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return Timing(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e9, result)


def _features(options: Options, device: str) -> tuple[Tensor, Tensor]:
    import torch

    draw = torch.Generator().manual_seed(0)
    scale = torch.arange(1, options.dimension + 1) ** -0.5
    samples = torch.randn(options.samples, options.dimension, generator=draw).mul_(scale)
    reference = torch.randn(options.reference, options.dimension, generator=draw).mul_(scale)
    return samples.add_(0.01).to(device), reference.to(device)


def our_statistics(options: Options, device: str) -> Timing:
    from bench.metrics.frechet import gaussian_of

    samples, _ = _features(options, device)
    return _timed(lambda: f"{gaussian_of(samples).covariance.trace().item():.6f}", device)


def numpy_statistics(options: Options, device: str) -> Timing:
    import numpy as np

    samples = _features(options, "cpu")[0].numpy()
    return _timed(lambda: f"{np.trace(np.cov(samples, rowvar=False)):.6f}")


def our_distance(options: Options, device: str) -> Timing:
    from bench.metrics.frechet import frechet_distance, gaussian_of

    seen, known = (gaussian_of(features) for features in _features(options, device))
    return _timed(lambda: f"{frechet_distance(seen, known):.8f}", device)


def torch_fidelity_distance(options: Options, device: str) -> Timing:
    from torch_fidelity import metric_fid

    seen, known = (metric_fid.fid_features_to_statistics(part) for part in _features(options, "cpu"))

    def work() -> str:
        metrics = metric_fid.fid_statistics_to_metric(seen, known, verbose=False)
        return f"{metrics[metric_fid.KEY_METRIC_FID]:.8f}"

    return _timed(work)


def scipy_distance(options: Options, device: str) -> Timing:
    import numpy as np
    from scipy.linalg import sqrtm

    sets = [features.numpy() for features in _features(options, "cpu")]
    means, covariances = [x.mean(axis=0) for x in sets], [np.cov(x, rowvar=False) for x in sets]

    def work() -> str:
        root = np.real(sqrtm(covariances[0] @ covariances[1]))  # type: ignore[arg-type]
        difference = means[0] - means[1]
        return f"{difference @ difference + np.trace(covariances[0] + covariances[1] - 2 * root):.8f}"

    return _timed(work)


def our_neighbours(options: Options, device: str) -> Timing:
    from bench.metrics.precision_recall import precision_recall

    samples, reference = _features(options, device)
    return _timed(lambda: "{:.4f} {:.4f}".format(*precision_recall(samples, reference)), device)


def torch_fidelity_neighbours(options: Options, device: str) -> Timing:
    from torch_fidelity.metric_prc import calculate_precision_recall_part

    samples, reference = _features(options, "cpu")
    return _timed(lambda: "{:.4f} {:.4f}".format(*calculate_precision_recall_part(samples, reference)))


def our_pass(options: Options, device: str) -> Timing:
    from bench.evaluation.accumulator import FeatureAccumulator, extract
    from bench.nets.inception import AdmInception

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the weights are not the published ones
        net = AdmInception(device, _random_weights(Path(folder)))
    images, accumulator = _images(options), FeatureAccumulator()

    def work() -> str:
        import torch

        for batch in torch.arange(len(images)).split(options.batch_size):
            accumulator.update(extract(net, images[batch]), None, batch)
        return f"{accumulator.statistics.mean.mean():.6f}" if accumulator.statistics else ""

    extract(net, images[: options.batch_size])  # warm-up
    return _timed(work, device)


def torch_fidelity_pass(options: Options, device: str) -> Timing:
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torch_fidelity.metric_fid import fid_features_to_statistics

    with tempfile.TemporaryDirectory() as folder:
        net = FeatureExtractorInceptionV3(
            "inception-v3-compat",
            ["2048", "logits_unbiased"],
            feature_extractor_weights_path=str(_random_weights(Path(folder))),
        ).to(device)
    images = _images(options)

    def work() -> str:
        with torch.no_grad():
            seen = [net(batch.to(device))[0].cpu() for batch in images.split(options.batch_size)]
        return f"{fid_features_to_statistics(torch.cat(seen))['mu'].mean():.6f}"

    with torch.no_grad():
        net(images[: options.batch_size].to(device))  # warm-up
    return _timed(work, device)


WAYS: dict[str, dict[str, Callable[[Options, str], Timing]]] = {
    "statistics": {"bench": our_statistics, "numpy": numpy_statistics},
    "distance": {
        "bench": our_distance,
        "torch-fidelity": torch_fidelity_distance,
        "scipy sqrtm": scipy_distance,
    },
    "neighbours": {"bench": our_neighbours, "torch-fidelity": torch_fidelity_neighbours},
    "pass": {"bench": our_pass, "torch-fidelity": torch_fidelity_pass},
}


def _images(options: Options) -> Tensor:
    import torch

    draw = torch.Generator().manual_seed(0)
    return torch.randint(256, (options.images, 3, 256, 256), generator=draw, dtype=torch.uint8)


def _random_weights(folder: Path) -> Path:
    import torch
    from torchvision.models import inception_v3

    torch.manual_seed(0)
    net = inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False)
    torch.save(net.state_dict(), folder / "random.pth")
    return folder / "random.pth"


if __name__ == "__main__":
    sys.exit(exit_code(main))
