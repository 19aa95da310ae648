"""Paired runs and exact reductions: what methods share is shared to the last bit."""

from functools import cache

import pytest
import torch

from bench.config import resolve
from bench.core.parallel import Parallelism
from bench.training.trainer import Trainer

TRAINING = {"steps": 60, "batch_size": 16}
CPU = torch.device("cpu")


def trained(method, steps=10, backbone="sit-pico", seed=0):
    """A trainer after some steps, and the rows of these."""
    trainer = Trainer(resolve.run_spec(method, backbone, "digits", seed, training=TRAINING), CPU)
    return trainer, [trainer.step(step) for step in range(steps)]


@cache
def reference(method, backbone):
    return trained(method, backbone=backbone)


def without_logs(rows):
    return [{key: value for key, value in row.items() if key != "logs"} for row in rows]


def assert_equal_weights(first, second):
    for part in ("backbone", "ema", "rewards"):
        a, b = first.state()[part], second.state()[part]
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(
    ("method", "same", "backbone"),
    [
        ("vrpo[perceptual=0,semantic=0]", "repa[weight=4.0,align_until=0.5]", "sit-pico"),
        ("vrpo[perceptual=0,semantic=0,weight=0.5,align_until=1.0]", "repa", "sit-pico"),
        ("vrpo[perceptual=0,semantic=0,weight=0.5,align_until=1.0]", "repa", "dit-pico"),
        ("vrpo[strength=0,estimator=score,align_until=1.0]", "repa[weight=4.0]", "sit-pico"),
        ("vrpo[strength=0,estimator=likelihood,align_until=1.0]", "repa[weight=4.0]", "sit-pico"),
        ("vrpo[gate_gain=0,estimator=counterfactual,align_until=1.0]", "repa[weight=4.0]", "sit-pico"),
        ("vrpo[perceptual=0,semantic=0,weight=0]", "baseline", "sit-pico"),
        ("vrpo[perceptual=0,semantic=0,weight=0]", "baseline", "dit-pico"),
        ("vrpo[weight=0,estimator=counterfactual]", "baseline", "sit-pico"),
        ("repa[weight=0]", "baseline", "sit-pico"),
    ],
)
def test_what_is_switched_off_leaves_no_trace(method, same, backbone):
    """Losses, gradients, weights and random draws of 10 steps, bit for bit."""
    first, rows = trained(method, backbone=backbone)
    second, expected = reference(same, backbone)
    assert without_logs(rows) == without_logs(expected)
    assert_equal_weights(first, second)
    assert first.flops_per_step == second.flops_per_step


@pytest.mark.parametrize("method", ["vrpo", "redi[encoder=digits-vit]", "haste[encoder=digits-vit]"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_activation_checkpointing_runs_blocks_twice_and_changes_nothing(method, precision):
    """Also for a method that notes the attention of blocks, and for one with extra state."""
    training = TRAINING | {"precision": precision}
    calls, found = [], []
    for recompute in (False, True):
        spec = resolve.run_spec(method, "sit-pico", "digits", 0, training=training)
        trainer = Trainer(spec, CPU, Parallelism(recompute=recompute))
        trainer.prepare(0)
        calls.append(0)
        for block in trainer.backbone.blocks:
            block.mlp.register_forward_pre_hook(lambda *_: calls.append(calls.pop() + 1))
        found.append((trainer, [trainer.step(step) for step in range(3)]))
    (plain, rows), (again, same_rows) = found
    assert calls[1] == 2 * calls[0] > 0
    assert without_logs(rows) == without_logs(same_rows)
    assert_equal_weights(plain, again)
    assert plain.flops_per_step == again.flops_per_step


@pytest.mark.parametrize("method", ["repa", "vrpo", "vrpo[estimator=score]"])
def test_methods_of_one_seed_see_the_same_images_times_and_noise(method):
    """Before any update the denoising losses agree; they come from the same weights and draws."""
    _, (row,) = trained(method, steps=1)
    _, (expected,) = trained("baseline", steps=1)
    assert torch.equal(row["raw"]["denoise"], expected["raw"]["denoise"])
    _, (other,) = trained("baseline", steps=1, seed=1)
    assert not torch.equal(other["raw"]["denoise"], expected["raw"]["denoise"])


@pytest.mark.parametrize(
    "method",
    ["baseline", "vrpo[estimator=score]", "vrpo[estimator=counterfactual]", "vrpo[semantic_reward=latent]"],
)
def test_a_restored_trainer_continues_to_the_same_weights(method):
    undisturbed, _ = trained(method, steps=6)
    half, _ = trained(method, steps=3)
    restored = Trainer(half.spec, CPU)
    restored.load_state({part: {k: v.clone() for k, v in x.items()} for part, x in half.state().items()})
    for step in range(3, 6):
        restored.step(step)
    assert_equal_weights(restored, undisturbed)


def test_logging_changes_nothing_but_the_logs():
    method, always = "vrpo[estimator=pathwise+counterfactual]", TRAINING | {"log_every": 1}
    rarely, expected = reference(method, "sit-pico")
    often = Trainer(resolve.run_spec(method, "sit-pico", "digits", 0, training=always), CPU)
    rows = [often.step(step) for step in range(10)]
    assert without_logs(rows) == without_logs(expected)
    assert_equal_weights(often, rarely)
    assert rows[1]["logs"] and not expected[1]["logs"]


@pytest.mark.parametrize("method", ["baseline", "repa", "vrpo"])
@pytest.mark.parametrize("backbone", ["sit-nano", "dit-nano"])
def test_the_denoising_loss_falls(method, backbone):
    _, rows = trained(method, steps=60, backbone=backbone)
    first, last = (
        torch.stack([row["raw"]["denoise"] for row in part]).mean() for part in (rows[:5], rows[-5:])
    )
    assert last < 0.9 * first


@pytest.mark.parametrize(("clip", "largest"), [(0, float("inf")), (0.01, 0.01), (1e6, float("inf"))])
def test_gradients_are_clipped_to_the_norm_and_not_at_all_at_zero(clip, largest):
    spec = resolve.run_spec(
        "baseline", "sit-pico", "digits", 0, training=TRAINING | {"gradient_clip": float(clip)}
    )
    trainer = Trainer(spec, CPU)
    found = float(trainer.step(0)["grad_norm"])
    left = torch.stack([one.grad.norm() for one in trainer.trained.values() if one.grad is not None]).norm()
    assert found > 0.01
    assert float(left) == pytest.approx(min(found, largest), rel=1e-4)


def test_ema_is_the_exponential_average_from_the_initial_weights():
    trainer = Trainer(
        resolve.run_spec("baseline", "sit-pico", "digits", 0, training=TRAINING | {"ema_decay": 0.9}), CPU
    )
    name = "blocks.0.mlp.fc1.weight"
    expected = trainer.backbone.state_dict()[name].clone()
    for step in range(4):
        trainer.step(step)
        expected = 0.9 * expected + 0.1 * trainer.backbone.state_dict()[name]
    assert torch.allclose(trainer.ema.state_dict()[name], expected, atol=1e-7)


def test_labels_are_dropped_at_the_given_rate(monkeypatch):
    trainer = Trainer(resolve.run_spec("baseline", "sit-pico", "digits", 0, training=TRAINING), CPU)
    seen = []
    trainer.backbone.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[2]))
    for step in range(100):
        trainer.step(step)
    share = (torch.cat(seen) == 10).float().mean().item()
    assert share == pytest.approx(0.1, abs=4 * (0.1 * 0.9 / 1600) ** 0.5)


def test_a_student_learns_from_the_encoder_that_the_method_aligns_with():
    trainer, rows = trained("vrpo[encoder=digits-untrained,perceptual=0,semantic_reward=latent]", steps=1)
    assert set(trainer.frozen.encoders) == {"digits-untrained"}
    assert 0 < rows[0]["logs"]["reward/student_loss"] < 2
