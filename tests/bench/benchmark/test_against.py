"""Our step beside the official code: told by its files, refused where it computes something else."""

import sys

import pytest
import torch

from bench.benchmark import against, official_code, steps
from bench.core.errors import UserError
from tests.helpers import official_checkout

CPU = torch.device("cpu")
SMALL = {"batch_size": 4, "precision": "fp32"}


def pair(path, backbone, data="digits"):
    code = official_code.kind_of(path)(path)
    return against.Pair(code, backbone, data, CPU, SMALL, "fp32")


@pytest.mark.parametrize(
    ("kind", "backbone", "data", "terms"),
    [
        ("repa", "sit-pico/4", "digits", {"prediction", "denoise", "repa", "samples"}),
        # Latents have four channels, of which three are guided.
        ("sit", "sit-pico/4", "imagenet256", {"prediction", "denoise", "samples"}),
        ("dit", "dit-pico/4", "imagenet256", {"prediction", "denoise", "bound", "samples"}),
        # Of one channel DiT's guidance would take the variance for the prediction.
        ("dit", "dit-pico/4", "digits", {"prediction", "denoise", "bound"}),
    ],
)
def test_the_official_formulas_give_our_numbers(kind, backbone, data, terms, tmp_path):
    both = pair(official_checkout.write(tmp_path, kind), backbone, data)
    found = both.differences()
    assert set(found) == terms
    assert max(found.values()) < 1e-4
    before = [parameter.clone() for parameter in both.network.parameters()]
    timings = both.time_training(warm_up=1, repeats=2)
    assert len(timings.ours) == len(timings.official) == 2
    assert bool(both.time_sampling(2, repeats=1)) == ("samples" in terms)
    changed = [not torch.equal(a, b) for a, b in zip(before, both.network.parameters(), strict=True)]
    assert sum(changed) >= len(changed) - 1  # all but the table of positions


def test_both_take_the_same_step(tmp_path, monkeypatch):
    both = pair(official_checkout.write(tmp_path, "repa"), "sit-pico/4")
    batch = both._batch()
    both.trainer.step(0)
    monkeypatch.setattr(torch, "rand", lambda *size: batch.t)
    monkeypatch.setattr(torch, "randn_like", lambda *like: batch.noise)
    both.their_step(batch)
    theirs, rate = both.network.state(), both.run.training.learning_rate
    ours = both.trainer.backbone.state_dict()
    ours |= both.trainer.method.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        # Adam's first step is the rate times the gradient's sign, which rounding decides for a few.
        assert (value - theirs[name]).abs().quantile(0.95) < 0.05 * rate, name


def test_other_numbers_are_refused(tmp_path):
    path = official_checkout.write(tmp_path, "sit")
    file = path / "transport/transport.py"
    file.write_text(file.read_text().replace(".pow(2)", ".pow(2).mul(1.01)"))
    with pytest.raises(UserError, match=r"computes other numbers .* denoise 1e-02, .*: nothing is timed"):
        pair(path, "sit-pico/4").differences()


def test_a_missing_module_is_named_and_no_name_is_left_behind(tmp_path):
    path = official_checkout.write(tmp_path, "repa")
    (path / "loss.py").write_text("import models.sit, no_such_module")
    with pytest.raises(UserError, match=r"loss.py needs the module no_such_module, which is not installed"):
        official_code.REPACode(path)
    assert str(path) not in sys.path
    assert not [
        name
        for name, module in sys.modules.items()
        if str(path) in str(getattr(module, "__file__", "")) and not name.startswith("official_")
    ]


def test_what_is_no_checkout_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        official_code.kind_of(tmp_path / "absent")
    with pytest.raises(
        UserError, match=r"no checkout of the official code; it lacks files \(repa: models/sit.py"
    ):
        official_code.kind_of(tmp_path)
    with pytest.raises(UserError, match=r"lacks files \(dit: models.py, diffusion"):
        official_code.kind_of(official_checkout.write(tmp_path, "sit"), "dit")
    with pytest.raises(UserError, match="trains a sit-: dit-pico is none"):
        pair(tmp_path, "dit-pico")


def test_the_command_prints_both_and_their_ratio(tmp_path, capsys, monkeypatch):
    path = official_checkout.write(tmp_path, "repa")
    words = [
        "steps",
        "--against",
        str(path),
        "--backbone",
        "sit-pico/4",
        "--batch-size",
        "2",
        "--device",
        "cpu",
    ]
    words += ["--warm-up", "0", "--repeats", "1", "--sampling-steps", "2", "--precision", "fp32"]
    monkeypatch.setattr(sys, "argv", words)
    steps.main()
    printed = capsys.readouterr().out
    assert "sit-pico/4: same numbers as" in printed
    assert "step of repa" in printed
    assert "sampling, 2 steps" in printed
    monkeypatch.setattr(sys, "argv", [*words, "--method", "vrpo"])
    with pytest.raises(UserError, match="trains repa, which is what is timed: leave --method out"):
        steps.main()
