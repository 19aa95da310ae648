"""The plan's figures against independent counts, and what it refuses before anything runs."""

import shutil
from collections import namedtuple

import pytest
import torch

from backbones import cost
from bench.config import resolve
from bench.core import machine
from bench.core.errors import UserError
from bench.core.parallel import Parallelism
from bench.core.progress import duration
from bench.launch.cost import estimate, estimate_all, memory, refuse_what_does_not_fit, show
from bench.training.trainer import Trainer

CPU = torch.device("cpu")
GIGA = 10**9


@pytest.fixture(scope="module")
def large():
    return estimate(resolve.run_spec("vrpo", "sit-xl", "digits", 0), CPU, peak=1e11)


def test_memory_covers_what_adamw_and_ema_keep(large):
    """Weights, gradients, two moments, EMA and the optimiser's workspace in float32, 24 bytes a parameter:
    16.2 GB for SiT-XL, which is more than its activations take of 64 small images."""
    assert large.memory == pytest.approx(16.2 * GIGA, rel=0.01)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_activations_are_as_large_as_what_autograd_keeps(precision):
    """Of a batch so large that little else counts. Autocast's copies of weights are kept, too."""
    batch = 64
    spec = resolve.run_spec(
        "baseline", "sit-ti", "digits", 0, training={"batch_size": batch, "precision": precision}
    )
    network = resolve.architecture("sit-ti").build(input_size=8, channels=1, num_classes=10)
    weights = {weight.untyped_storage().data_ptr() for weight in network.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        output = network(torch.randn(batch, 1, 8, 8), torch.rand(batch), torch.zeros(batch).long())
    parameters = sum(weight.numel() for weight in network.parameters())
    assert output.prediction.requires_grad
    assert memory(spec) == pytest.approx(16 * parameters + sum(kept.values()), rel=0.1)


def test_activation_checkpointing_keeps_one_block_and_what_blocks_receive():
    spec = resolve.run_spec("baseline", "sit-ti", "digits", 0, training={"batch_size": 512})
    more, less = (memory(spec, Parallelism(recompute=recompute)) for recompute in (False, True))
    assert less < 0.5 * more


def test_counted_flops_are_three_forwards():
    """A backward costs two forwards, save that attention recomputes its weights (more) and that the first
    layers need no gradient of their input (less)."""
    run = resolve.run_spec("baseline", "sit-ti", "digits", 0)
    trainer = Trainer(run, CPU)
    trainer.prepare(0)
    forward = cost.flops(resolve.architecture("sit-ti"), 8, 1) * run.training.batch_size
    assert trainer.flops_per_step == pytest.approx(3 * forward, rel=0.02)


@pytest.mark.parametrize(
    ("method", "reference", "projector"),
    [
        ("sra", "baseline", 16 * (2 * 96 * 192)),
        ("reg[encoder=digits-vit]", "repa[encoder=digits-vit]", 96 * 192 + 192 * 192 + 192 * 64),
    ],
)
def test_work_beyond_the_backbone_is_estimated_as_it_is_counted(monkeypatch, method, reference, projector):
    """The average's forward and extra state. Method and reference have the same encoder; what one
    projects more than the other is a product of 2 FLOPs, forward and twice backward, of 64 images."""
    monkeypatch.setattr("bench.launch.cost.MEASURED_BELOW", 0)
    specs = [resolve.run_spec(name, "sit-ti", "digits", 0) for name in (method, reference)]
    counted = []
    for spec in specs:
        trainer = Trainer(spec, CPU)
        trainer.prepare(0)
        counted.append(trainer.flops_per_step)
    more = counted[0] - counted[1] - 64 * 3 * 2 * projector
    ours, theirs = (estimate(spec, CPU, peak=1e11).flops_per_step for spec in specs)
    assert more > 0 and ours - theirs == pytest.approx(more, rel=0.02)


def test_a_model_larger_than_memory_is_refused_in_one_line(large, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "available_memory", lambda device: 8 * GIGA)
    with pytest.raises(UserError, match=r"takes about 1\d\.\d GB, this machine has 8 GB"):
        refuse_what_does_not_fit([large], tmp_path, CPU)


def test_checkpoints_larger_than_the_disk_are_refused(large, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(machine, "available_memory", lambda device: 80 * GIGA)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, GIGA))
    with pytest.raises(UserError, match=r"has 1 GB free"):
        refuse_what_does_not_fit([large], tmp_path / "not" / "yet" / "there", CPU)


def test_the_plan_prints_names_as_they_are_typed(tmp_path, capsys):
    specs = [resolve.run_spec("repa[weight=2.0]", "sit-ti", "digits", seed) for seed in (0, 1)]
    show(specs, estimate_all(specs, CPU), tmp_path, CPU)
    assert "repa[weight=2.0]" in capsys.readouterr().out.replace("\n", "")


@pytest.mark.parametrize(
    ("seconds", "text"), [(42, "42 s"), (210, "3.5 min"), (7200, "2 h"), (12 * 86_400, "12 days")]
)
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text
