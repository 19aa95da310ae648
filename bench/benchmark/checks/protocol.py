"""The stages between a trained model and its numbers, each checked apart against something known.

When a number does not match, one of these deviates: numerics, feature nets, reference, decoder, sampler,
labels and seeds, rounding. Each check says what it compared; what this machine lacks is said, not passed.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

import backbones
from backbones.base import Output
from bench.benchmark.checks.result import CheckResult
from bench.config import resolve
from bench.config.spec import Protocol
from bench.core.errors import UserError, unknown
from bench.core.seeding import generator
from bench.data import datasets
from bench.data.containers import is_npz
from bench.data.image_files import open_archive
from bench.diffusion import samplers
from bench.diffusion.guidance import Guidance
from bench.diffusion.objectives import Process
from bench.diffusion.pixels import to_uint8
from bench.evaluation import sampling
from bench.metrics import frechet
from bench.metrics.precision_recall import precision_recall
from bench.nets import table, weights
from bench.nets.local import RECIPES, accuracy, local_net
from bench.nets.metric_nets import feature_net, names


def protocol_of(data: str, feature_nets: Sequence[str] = ()) -> Protocol:
    """The protocol of a data set, with additional feature networks. Raises UserError for unknown names."""
    protocol = resolve.run_spec("baseline", backbones.DEFAULT, data, seed=0).protocol
    nets = dict.fromkeys((*protocol.feature_nets, *feature_nets))
    return protocol.model_copy(update={"feature_nets": tuple(nets)})


def check(protocol: Protocol, data: str, reference: Path | None = None) -> Iterator[CheckResult]:
    """All findings, stage by stage; a stage that fails does not keep the others from being checked.

    `data` is the name of the protocol's data set, `reference` a file of statistics that is checked as well.
    """
    stages: dict[str, Callable[[], Iterator[CheckResult]]] = {
        "numerics": numerics,
        "feature nets": lambda: feature_nets(protocol),
        "reference": lambda: reference_statistics(data, reference),
        "decoder": lambda: decoder(data),
        "sampler": lambda: sampler(protocol),
        "labels and seeds": lambda: labels_and_seeds(protocol, datasets.get(data).shape.classes),
        "rounding": rounding,
    }
    for stage, look in stages.items():
        try:
            yield from look()
        except UserError as error:
            yield CheckResult(stage, "failed", str(error))


def _compared(stage: str, what: str, found: float, truth: float, tolerance: float) -> CheckResult:
    good = abs(found - truth) <= tolerance
    return CheckResult(
        stage, "ok" if good else "failed", f"{what}: {found:.6g}, should be {truth:.6g} +- {tolerance:.2g}"
    )


def numerics() -> Iterator[CheckResult]:
    """Frechet distance of Gaussians in closed form; precision and recall of points on a line."""
    frechet.self_test()
    yield CheckResult("numerics", "ok", "Frechet distances of Gaussians in closed form")
    # Of 0, 1, ..., 9, every ball reaches 3 at the ends and 2 inside: it covers -3 .. 12.
    line = torch.arange(10.0)[:, None]
    found = precision_recall(torch.tensor([[-3.5], [-2.9], [4.4], [11.9], [12.1], [40.0]]), line)
    yield _compared("numerics", "precision of points on a line", found.precision, 3 / 6, 1e-9)


# The first features of a ramp of grey levels 0, 4, ..., 252 on 8x8, by random-conv.
PINNED = (0.481855, 0.315337, 0.455246, 0.121149, 0.386791, 0.322647)


def feature_nets(protocol: Protocol) -> Iterator[CheckResult]:
    """Stored outputs on a stored input, accuracy of nets trained here, checksums of published weights."""
    for name in protocol.feature_nets:
        if name == "random-conv":
            ramp = torch.arange(64, dtype=torch.uint8).mul(4).view(1, 1, 8, 8)
            error = (feature_net(name)(ramp).pooled[0, : len(PINNED)] - torch.tensor(PINNED)).abs().max()
            yield _compared("feature nets", f"{name} on a ramp, largest deviation", error.item(), 0, 1e-4)
        elif name in RECIPES:
            reached = accuracy(local_net(name), datasets.get(RECIPES[name].data).open())
            good = reached >= RECIPES[name].required_accuracy
            text = f"{name}: {reached:.1%} of the held-out images classified right"
            yield CheckResult("feature nets", "ok" if good else "failed", text)
        elif name in table.names("inception"):
            try:
                path = weights.find(name)
                yield CheckResult("feature nets", "ok", f"{name}: {path} is the published file")
            except UserError as error:
                yield CheckResult("feature nets", "not checked", str(error))
        elif name == "pixels":
            yield CheckResult("feature nets", "ok", "pixels: nothing to go wrong")
        elif name in names() or name.startswith(("timm:", "clip:")):
            yield CheckResult("feature nets", "not checked", f"{name}: no outputs of it are stored")
        else:
            raise unknown("feature net", name, names())


# SHA-256 of the reference images and labels of data sets that ship with the suite, the first 16 digits.
FINGERPRINTS = {"digits": "8eaf95e0b98778e7"}


def fingerprint(images: Tensor, labels: Tensor) -> str:
    """16 hex digits over the bytes of images [N, C, H, W] uint8 and labels [N]."""
    content = images.contiguous().numpy().tobytes() + labels.to(torch.int64).numpy().tobytes()
    return hashlib.sha256(content).hexdigest()[:16]


def reference_statistics(data: str, path: Path | None) -> Iterator[CheckResult]:
    """The reference images are the pinned ones; a given file holds sound statistics."""
    stage = "reference"
    if not datasets.get(data).available:
        yield CheckResult(stage, "not checked", f"there is no store of {data} here")
    else:
        images, labels = datasets.get(data).open().reference()
        if data in FINGERPRINTS:
            good = fingerprint(images, labels) == FINGERPRINTS[data]
            text = f"{len(images)} images of {data}, the {'pinned' if good else 'WRONG'} ones"
            yield CheckResult(stage, "ok" if good else "failed", text)
        else:
            yield CheckResult(stage, "not checked", f"{len(images)} images of {data}: none are pinned")
    path = path or datasets.get(data).reference_file
    if path is None or not is_npz(path):
        return
    with open_archive(path) as arrays:
        pairs = [(m, s) for m, s in (("mu", "sigma"), ("mu_s", "sigma_s")) if {m, s} <= set(arrays.files)]
        if not pairs:
            yield CheckResult(
                stage, "not checked", f"{path} has no statistics; it has {', '.join(arrays.files)}"
            )
        for mean, covariance in pairs:
            gaussian = frechet.Gaussian(torch.from_numpy(arrays[mean]), torch.from_numpy(arrays[covariance]))
            scale = gaussian.covariance.double().trace().item()
            own = frechet.frechet_distance(gaussian, gaussian)
            what = (
                f"{mean}, {covariance} of {path.name} ({len(gaussian.mean)} dimensions), distance to itself"
            )
            yield _compared(stage, what, own, 0.0, 1e-5 * scale)


def decoder(name: str) -> Iterator[CheckResult]:
    """Images of a data set through the model's space and back."""
    if not datasets.get(name).available:
        yield CheckResult("decoder", "not checked", f"there is no store of {name} here")
        return
    data = datasets.get(name).open()
    batch = data.batch(torch.arange(min(64, len(data))), generator(0, "check"))
    with torch.no_grad():
        decoded = to_uint8(data.to_pixels(batch.x0), "round")
    if batch.x0.shape == batch.image.shape:
        same = torch.equal(decoded, batch.image)
        yield CheckResult(
            "decoder", "ok" if same else "failed", "pixels: rounding to the nearest level gives them back"
        )
        return
    error = (decoded.double() - batch.image.double()).square().mean().item()
    noise_ratio = 10 * torch.log10(torch.tensor(255**2 / max(error, 1e-9))).item()
    text = f"latents of 64 images decoded: {noise_ratio:.1f} dB PSNR, should be above 20"
    yield CheckResult("decoder", "ok" if noise_ratio > 20 else "failed", text)


MEAN, DEVIATION = 0.3, 0.5  # of the Gaussian data that samplers are tried on
MANY_STEPS = 500  # in which only a wrong sampler deviates


def gaussian_model(process: Process) -> Callable[..., Output]:
    """The perfect network for data N(MEAN, DEVIATION^2): its prediction is an expectation in closed form.

    With x_t = a x0 + s eps:  E[x0 | x_t] = MEAN + a DEVIATION^2 r,  E[eps | x_t] = s r,
    r = (x_t - a MEAN) / (a^2 DEVIATION^2 + s^2); the target is linear in both.
    """

    def model(x_t: Tensor, t: Tensor, label: Tensor, hidden_depths: tuple[int, ...] = ()) -> Output:
        one, zero = torch.ones_like(x_t), torch.zeros_like(x_t)
        a, s = process.corrupt(one, zero, t), process.corrupt(zero, one, t)
        r = (x_t - a * MEAN) / (a**2 * DEVIATION**2 + s**2)
        return Output(process.target(MEAN + a * DEVIATION**2 * r, s * r, t), zero, {})

    return model


def sampler(protocol: Protocol) -> Iterator[CheckResult]:
    """Both samplers of the protocol on a model that knows the answer, in many steps and in their own."""
    for text, process in ((protocol.sampler_flow, "flow"), (protocol.sampler_ddpm, "ddpm")):
        own = samplers.get(text)
        fine = dataclasses.replace(own, steps=MANY_STEPS) if hasattr(own, "steps") else own  # type: ignore
        mean, deviation = _drawn_from_gaussian(fine, resolve.process(process))
        name = text if fine is own else f"{text} in {MANY_STEPS} steps"
        yield _compared("sampler", f"{name}, mean of a known Gaussian", mean, MEAN, 0.02)
        yield _compared("sampler", f"{name}, its deviation", deviation, DEVIATION, 0.03)
        if fine is not own:
            mean, deviation = _drawn_from_gaussian(own, resolve.process(process))
            few = f"{text} with its few steps: mean {mean:.3f}, deviation {deviation:.3f}"
            yield CheckResult("sampler", "ok", few)


def _drawn_from_gaussian(sampler: samplers.Sampler, process: Process) -> tuple[float, float]:
    """Mean and standard deviation of 8,000 pixels."""
    draw = generator(0, "check sampler")

    def noise() -> Tensor:
        return torch.randn((2000, 1, 2, 2), generator=draw)

    labels = torch.zeros(2000, dtype=torch.long)
    start, model = noise(), gaussian_model(process)
    samples = sampler.sample(model, start, labels, process=process, guidance=Guidance(), step_noise=noise)
    return samples.mean().item(), samples.std().item()


def labels_and_seeds(protocol: Protocol, classes: int) -> Iterator[CheckResult]:
    """Class balance, and that labels do not depend on how samples are cut into batches."""
    stage = "labels and seeds"
    index = torch.arange(protocol.samples)
    labels = sampling.requested_labels(index, protocol.labels, classes, seed=0)
    counts = labels.bincount(minlength=classes).double()
    if protocol.labels == "balanced":
        spread = (counts.max() - counts.min()).item()
        text = f"balanced labels: class counts differ by {spread:.0f}, at most 1 is expected"
        yield CheckResult(stage, "ok" if spread <= 1 else "failed", text)
    else:  # of independent uniform labels it has mean K - 1 and variance 2 (K - 1)
        expected = protocol.samples / classes
        found = ((counts - expected) ** 2 / expected).sum().item()
        what = f"random labels: chi-square of the counts of {classes} classes"
        yield _compared(stage, what, found, classes - 1, 5 * (2 * (classes - 1)) ** 0.5)
    parts = [sampling.requested_labels(part, protocol.labels, classes, seed=0) for part in index.split(7)]
    same = torch.equal(torch.cat(parts), labels)
    yield CheckResult(
        stage, "ok" if same else "failed", "labels do not depend on the batches they are drawn in"
    )


def rounding() -> Iterator[CheckResult]:
    """Every rule on values that tell them apart."""
    values = torch.tensor([-2.0, -1.0, 0.0, 0.0002, 0.0039, 1.0, 2.0])
    expected = {
        "truncate": [0, 0, 127, 127, 127, 255, 255],
        "round": [0, 0, 128, 128, 128, 255, 255],
        "adm": [0, 0, 128, 128, 128, 255, 255],
    }
    for rule, levels in expected.items():
        found = to_uint8(values, rule).tolist()  # type: ignore[arg-type]
        text = f"{rule}: {found}" + ("" if found == levels else f", should be {levels}")
        yield CheckResult("rounding", "ok" if found == levels else "failed", text)
