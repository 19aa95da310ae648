"""Compiled runs: which modules, under which names, and exact resume. Only the compiler's front end is run."""

import pytest
import torch
from torch import nn

from bench.config import resolve
from bench.core.errors import UserError
from bench.training.trainer import Trainer

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def front_end_alone(monkeypatch):
    own = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: own(self, backend="eager", **options))


def trainer(**training):
    chosen = {"steps": 20, "batch_size": 8, "precision": "fp32", **training}
    return Trainer(resolve.run_spec("repa", "sit-pico/4", "digits", 0, training=chosen), CPU)


def compiled(module):
    return [name for name, part in module.named_modules() if part._compiled_call_impl is not None]


def test_blocks_and_projectors_are_compiled_and_keep_their_names():
    plain, run = trainer(), trainer(compile=True)
    assert compiled(run.backbone) == ["blocks.0", "blocks.1"]
    assert compiled(run.method) == ["projectors.0"]
    assert not compiled(run.ema) and not compiled(plain.backbone)
    assert run.backbone.state_dict().keys() == plain.backbone.state_dict().keys()
    assert run.spec.hash != plain.spec.hash


def test_a_compiled_run_resumes_to_the_same_bits_and_counts_the_same_flops():
    whole, first = trainer(compile=True), trainer(compile=True)
    rows = [float(whole.step(step)["loss"]) for step in range(4)]
    for step in range(2):
        first.step(step)
    again = trainer(compile=True)
    again.load_state(first.state())
    assert [float(again.step(step)["loss"]) for step in (2, 3)] == rows[2:]
    for part, tensors in whole.state().items():
        assert all(torch.equal(value, again.state()[part][name]) for name, value in tensors.items())
    plain = trainer()
    assert float(plain.step(0)["loss"]) == pytest.approx(rows[0], rel=1e-5)
    assert whole.flops_per_step == plain.flops_per_step


def test_a_machine_without_a_compiler_is_told_so(monkeypatch):
    monkeypatch.setattr("bench.core.compilation.shutil.which", lambda name: None)
    for options in ({"training": {"compile": True}}, {"protocol": {"sampling_compile": True}}):
        run = resolve.run_spec("baseline", "sit-pico/4", "digits", 0, **options)
        with pytest.raises(UserError, match=r"need a C\+\+ compiler"):
            Trainer(run, CPU)
