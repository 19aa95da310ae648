"""The plan's figures against independent counts, and what it refuses before anything runs."""

import shutil
from collections import namedtuple

import pytest
import torch

from backbones import cost
from bench.config import resolve
from bench.core import machine
from bench.core.errors import UserError
from bench.core.progress import duration
from bench.launch.cost import estimate, estimate_all, refuse_what_does_not_fit, show
from bench.training.trainer import Trainer

CPU = torch.device("cpu")
GIGA = 10**9


@pytest.fixture(scope="module")
def large():
    return estimate(resolve.run_spec("vrpo", "sit-xl", "digits", 0), CPU, peak=1e11)


def test_memory_covers_what_adamw_and_ema_keep(large):
    """Weights, gradients, two moments and EMA in float32: 20 bytes a parameter; 13.5 GB for SiT-XL."""
    kept = 5 * 4 * large.parameters
    assert kept == pytest.approx(13.5 * GIGA, rel=0.01)
    assert 1.2 * kept < large.memory < 1.6 * kept  # 18.0 GB were seen in use


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
