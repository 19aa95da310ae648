"""Sample i depends on (seed, i) alone."""

import pytest
import torch
from torch import nn

from bench.core.errors import UserError
from bench.evaluation import sampling
from bench.runs import loading
from tests.helpers import untrained_run


@pytest.fixture(params=["sit-ti", "dit-ti"])
def run(request, tmp_path):
    return loading.load(untrained_run.make(tmp_path, request.param), torch.device("cpu"))


def images_of(run, numbers, **changes):
    spec = run.spec.model_copy(update=changes)
    parts = sampling.stream(run.model, run.process, spec, run.data, torch.tensor(list(numbers)))
    return torch.cat([part.images for part in parts])


def test_neither_the_batch_nor_the_other_samples_matter(run, monkeypatch):
    # A random label and the noise of every stochastic step, too, come from the sample's own stream.
    protocol = run.spec.protocol.model_copy(
        update={
            "labels": "random",
            "guidance_scale": 1.5,
            "sampler_flow": "euler-maruyama[steps=3]",
            "sampler_ddpm": "ddpm[steps=3]",
        }
    )
    together = images_of(run, range(20), protocol=protocol)
    monkeypatch.setattr(sampling, "BATCH_SIZE", 3)
    numbers = [17, 2, 9, 11, 4]
    apart = images_of(run, numbers, protocol=protocol)
    # Products of matrices of another size may round otherwise, and so may, seldom, a pixel.
    difference = (apart.int() - together[numbers].int()).abs()
    assert difference.max() <= 1 and (difference > 0).float().mean() < 0.01
    assert len({image.numpy().tobytes() for image in together}) == 20


def test_another_seed_gives_other_samples(run):
    assert not torch.equal(images_of(run, range(4)), images_of(run, range(4), seed=1))


def test_samples_that_are_not_finite_are_refused(run):
    run.model.final_layer.linear.bias.fill_(float("nan"))
    with pytest.raises(UserError, match="samples 0 to 3 hold NaN or infinity"):
        images_of(run, range(4))


def test_guidance_is_one_call_inside_its_interval_and_costs_nothing_outside(run):
    calls = []

    def spy(module, positional, named):
        calls.append((len(positional[0]), len(positional), named))

    run.model.register_forward_pre_hook(spy, with_kwargs=True)
    chosen = {"sampler_flow": "euler[steps=4]", "sampler_ddpm": "ddim[steps=4]"}
    guided = {"guidance_scale": 2.0, "guidance_interval": (0.0, 0.6)}
    images_of(run, range(3), protocol=run.spec.protocol.model_copy(update=chosen | guided))
    # x_t, t and label alone: no hidden state, key or value is asked for.
    assert calls == [(rows, 3, {}) for rows in (3, 3, 6, 6)]


def test_compiled_sampling_gives_the_same_images_and_leaves_the_model_as_it_is(run, monkeypatch):
    """With the compiler's front end alone; of its kernels the last digits differ."""
    own, compiled = nn.Module.compile, []

    def front_end(module, **options):
        compiled.append(type(module).__name__)
        own(module, backend="eager", **options)

    monkeypatch.setattr(nn.Module, "compile", front_end)
    protocol = run.spec.protocol.model_copy(update={"sampling_compile": True})
    found = images_of(run, range(4), protocol=protocol)
    assert compiled == ["Block"] * len(run.model.blocks)
    assert torch.equal(found, images_of(run, range(4)))
    assert all(block._compiled_call_impl is None for block in run.model.blocks)
    assert protocol.hash != run.spec.protocol.hash


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_precision_is_of_the_networks_products_while_sampling(run, precision):
    seen = []

    def look(module, inputs, output):
        seen.append((output.dtype, torch.get_float32_matmul_precision()))

    run.model.blocks[0].mlp.fc1.register_forward_hook(look)
    protocol = run.spec.protocol.model_copy(update={"sampling_precision": precision})
    found, usual = images_of(run, range(4), protocol=protocol), images_of(run, range(4))
    assert seen[0] == (
        torch.bfloat16 if precision == "bf16" else torch.float32,
        "high" if precision == "tf32" else "highest",
    )
    assert torch.get_float32_matmul_precision() == "highest"
    assert not any(weight.requires_grad for weight in run.model.parameters())
    # From much noise DDIM magnifies rounding a hundredfold.
    difference = (found.int() - usual.int()).abs().float().mean()
    assert difference == 0 if precision == "fp32" else difference < 16
    assert (protocol.hash == run.spec.protocol.hash) == (precision == "fp32")
