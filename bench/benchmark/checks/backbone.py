"""Checks of a backbone on the embedded digits: the interface that the suite requires."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import backbones
from backbones import cost
from backbones.base import Backbone, Output
from bench.benchmark.checks import method as method_checks
from bench.benchmark.checks.result import CheckFailed, CheckResult, run_checks
from bench.benchmark.checks.trial import DATA, Trial
from bench.config import resolve
from bench.core import grammar
from bench.data import datasets

IMAGES = 4


def check_backbone(backbone: str) -> Iterator[CheckResult]:
    """All checks of a backbone, `NAME[options]` or the path of a file."""
    return run_checks(CHECKS, backbone, grammar.split(backbone)[0])


def built(backbone: str) -> Backbone:
    """The network for the digits, with all parameters random, as after some training."""
    shape = datasets.get(DATA).shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = backbones.build(
            resolve.architecture(backbone),
            input_size=shape.size,
            channels=shape.channels,
            num_classes=shape.classes,
        )
        for parameter in network.parameters():
            parameter.data += 0.02 * torch.randn_like(parameter)
    return network.eval()


def called(network: Backbone, rows: slice = slice(None), depths: tuple[int, ...] = ()) -> Output:
    """Output of the network for a few random images, with the null class among their labels."""
    stream = torch.Generator().manual_seed(1)
    shape = (IMAGES, network.channels, network.input_size, network.input_size)
    x_t, t = torch.randn(shape, generator=stream), torch.rand(IMAGES, generator=stream)
    label = torch.arange(IMAGES) % network.num_classes
    label[-1] = network.num_classes
    with torch.no_grad():
        return network(x_t[rows], t[rows], label[rows], hidden_depths=depths)


def output(backbone: str) -> str:
    """Prediction and hidden states have the documented shapes."""
    network = built(backbone)
    if not isinstance(network, Backbone):
        raise CheckFailed(f"build returns a {type(network).__name__}: return a backbones.base.Backbone.")
    if not len(network.blocks):
        raise CheckFailed("the network has no blocks: list the parts after which hidden states are taken.")
    architecture = network.architecture
    depths = tuple(range(1, architecture.depth + 1))
    found = called(network, depths=depths)
    if not isinstance(found, Output):
        raise CheckFailed(f"forward returns a {type(found).__name__}: return a backbones.base.Output.")
    image = (IMAGES, network.channels, network.input_size, network.input_size)
    for name, tensor in (("prediction", found.prediction), ("variance", found.variance)):
        if tensor is not None and tensor.shape != image:
            raise CheckFailed(f"the {name} has shape {tuple(tensor.shape)}, the images have {image}.")
    if set(found.hidden) != set(depths):
        raise CheckFailed(
            f"asked for hidden states after blocks {', '.join(map(str, depths))}, it gives those after "
            f"{', '.join(map(str, found.hidden)) or 'none'}."
        )
    rows, columns = network.grid
    tokens = (IMAGES, rows * columns, architecture.width)
    for depth, hidden in found.hidden.items():
        if hidden.shape != tokens:
            raise CheckFailed(
                f"the hidden state after block {depth} has shape {tuple(hidden.shape)}; [B, N, D] is "
                f"{tokens} by the grid {rows} x {columns} and the width {architecture.width} of the "
                "architecture."
            )
    if called(network, depths=(1,)).prediction.ne(found.prediction).any():
        raise CheckFailed("the prediction depends on the hidden states that are asked for.")
    return f"prediction {image[1:]}; {len(depths)} hidden states of {tokens[1]} tokens x {tokens[2]}"


def inputs(backbone: str) -> str:
    """The output depends on image, time and class, and not on other samples."""
    network = built(backbone)
    whole = called(network).prediction
    alone = called(network, slice(0, 1)).prediction
    if not torch.allclose(whole[:1], alone, rtol=1e-3, atol=1e-5):
        raise CheckFailed(
            "the prediction for one image depends on the others of its batch: use no batch normalisation."
        )
    shape = (1, network.channels, network.input_size, network.input_size)
    x, t, label = torch.zeros(shape), torch.tensor([0.3]), torch.tensor([0])
    changed = {
        "image": (x + 1, t, label),
        "time": (x, t + 0.5, label),
        "class": (x, t, torch.tensor([network.num_classes])),
    }
    with torch.no_grad():
        before = network(x, t, label).prediction
        for name, arguments in changed.items():
            if torch.equal(network(*arguments).prediction, before):
                raise CheckFailed(f"the prediction does not depend on the {name}.")
    return "depends on image, time and class (the null class, too), not on other samples"


def name(backbone: str) -> str:
    """The name of the architecture determines it."""
    architecture = resolve.architecture(backbone)
    if resolve.architecture(architecture.name) != architecture:
        raise CheckFailed(
            f"its name {architecture.name} stands for another architecture: are all options fields?"
        )
    return f"{architecture.name} stands for this architecture; trained on {architecture.process} by default"


def weights(backbone: str) -> str:
    """A saved and loaded network computes the same function."""
    network, other = built(backbone), built(backbone)
    for parameter in other.parameters():
        parameter.data.zero_()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_file({key: value.contiguous() for key, value in network.state_dict().items()}, path)
        other.load_state_dict(load_file(path))
    if not torch.equal(called(other).prediction, called(network).prediction):
        raise CheckFailed(
            "with the saved weights it predicts something else: all state must be parameters or buffers."
        )
    return "saved as safetensors and loaded: the same predictions"


def costs(backbone: str) -> str:
    """Parameters and FLOPs of the architecture are those of the network."""
    network = built(backbone)
    architecture = network.architecture
    planned = architecture.parameters(network.input_size, network.channels, network.num_classes)
    there = sum(parameter.numel() for parameter in network.parameters())
    if planned != there:
        raise CheckFailed(f"parameters() states {planned:,}, the network has {there:,}.")
    flops = architecture.flops(network.input_size, network.channels)
    network.train()  # some layers of torch run as one uncounted operator otherwise
    with cost.counter() as counter:
        called(network, slice(0, 1))
    done = counter.get_total_flops()
    if abs(flops - done) > 0.05 * done:
        raise CheckFailed(
            f"flops() states {flops / 1e6:.2f} MFLOP per image, a forward executes {done / 1e6:.2f}."
        )
    return f"{there:,} parameters, {done / 1e6:.2f} MFLOP per image and forward pass"


def gradients(backbone: str) -> str:
    """Every trainable parameter of the network has a gradient: DDP needs it."""
    network = built(backbone)
    stream = torch.Generator().manual_seed(1)
    shape = (IMAGES, network.channels, network.input_size, network.input_size)
    label = torch.arange(IMAGES) % network.num_classes
    found = network(torch.randn(shape, generator=stream), torch.rand(IMAGES, generator=stream), label)
    (found.prediction.square().mean() + (0 if found.variance is None else found.variance.mean())).backward()
    idle = [key for key, value in network.named_parameters() if value.requires_grad and value.grad is None]
    if idle:
        raise CheckFailed(f"no gradient reaches {', '.join(idle)}: use it, or set requires_grad=False.")
    return "a gradient for every trainable parameter"


def trains(backbone: str) -> str:
    """Two runs of the baseline and one with REPA: repeatable, and alignment reaches the network."""
    method_checks.repeatable(Trial("baseline", backbone))
    return method_checks.losses(Trial("repa", backbone)).replace("a step trains", "REPA trains it")


def resumes(backbone: str) -> str:
    """A resumed run equals an uninterrupted one."""
    return method_checks.resume(Trial("baseline", backbone))


def samples(backbone: str) -> str:
    """Sample i only depends on seed and i."""
    return method_checks.samples(Trial("baseline", backbone))


CHECKS = {
    "output": output,
    "inputs": inputs,
    "name": name,
    "weights": weights,
    "cost": costs,
    "gradients": gradients,
    "training": trains,
    "resume": resumes,
    "samples": samples,
}
