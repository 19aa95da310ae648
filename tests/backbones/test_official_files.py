"""Official files of every kind are read as the functions they are."""

import argparse
import re

import pytest
import torch

import backbones
from backbones import SIZES, checkpoints
from backbones.official import read_official
from tests.helpers import official_forward
from tests.helpers.official_files import (
    FAMILIES,
    VARIANCE,
    assert_close,
    official_shapes,
    official_state,
    random_input,
    refusal,
    write,
)

OFFICIAL_VARIANTS = [f"{size}/{patch}" for size in ("s", "b", "l", "xl") for patch in (2, 4, 8)]


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "variance"),
    [("ti/2", True), ("ti/2", False), ("ti/4", True), ("s/2", True), ("s/4", True), ("s/8", False)],
)
def test_sit_is_minus_the_official_velocity_at_one_minus_t(tmp_path, name, variance):
    state = official_state(name, variance=variance)
    network = checkpoints.weights(write(tmp_path / "sit.pt", state), family="sit").build().eval()
    x, t, label = random_input()
    official = -official_forward.sit(state, x, 1 - t, label, network.architecture.heads)
    output = network(x, t, label)
    assert output.variance is None
    assert_close(output.prediction, official)


@torch.no_grad()
def test_turning_the_time_of_sit_is_exact(tmp_path):
    """In float64 nothing is left but the official frequencies, which are float32."""
    state = {key: value.double() for key, value in official_state().items()}
    read = checkpoints.weights(write(tmp_path / "sit.pt", state), "sit")
    network = read.build().double()
    network.load_state_dict(read.state)
    x, t, label = (value.double() if value.is_floating_point() else value for value in random_input())
    official = -official_forward.sit(state, x, 1 - t, label, network.architecture.heads)
    assert (network(x, t, label).prediction - official).abs().max() < 1e-7 * official.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("name", ["ti/2", "ti/4", "s/8"])
def test_repa_and_dit_are_the_official_functions(tmp_path, name):
    x, t, label = random_input()
    state = official_state(name)
    repa = checkpoints.weights(write(tmp_path / "repa.pt", state), family="repa").build().eval()
    heads = repa.architecture.heads
    assert_close(repa(x, t, label).prediction, official_forward.repa(state, x, t, label, heads))

    state = official_state(name, variance=True)
    dit = checkpoints.weights(write(tmp_path / "dit.pt", state), family="dit").build().eval()
    timestep = torch.tensor([0, 1, 2, 499, 998, 999])
    output = dit(x, (timestep + 1) / 1000, label)
    for ours, theirs in zip(output, official_forward.dit(state, x, timestep, label, heads), strict=False):
        assert_close(ours, theirs)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", [*OFFICIAL_VARIANTS, "xl/1"])
def test_sizes_of_every_variant_are_read_off_the_shapes(tmp_path, family, name):
    """Files of one number each: its tensors are that number, seen in the official shapes."""
    input_size, channels, classes = (32, 4, 1000) if name != "xl/1" else (16, 32, 100)
    sizes = {"input_size": input_size, "channels": channels, "classes": classes}
    shapes = official_shapes(name, variance=VARIANCE[family], **sizes)
    number = torch.zeros(1)
    path = write(tmp_path / "official.pt", {key: number.expand(shape) for key, shape in shapes.items()})
    read = read_official(path, family=family)
    ours = "dit" if family == "dit" else "sit"
    assert read.architecture == backbones.architecture(f"{ours}-{name}")
    assert (read.input_size, read.channels, read.num_classes) == (input_size, channels, classes)
    with torch.device("meta"):
        expected = backbones.build(
            read.architecture, input_size=input_size, channels=channels, num_classes=classes
        )
    assert {key: value.shape for key, value in read.state.items()} == {
        key: value.shape for key, value in expected.state_dict().items()
    }


def wrapped(state):
    """Every way in which training code puts a state in a file; of two, the EMA is the one wanted."""
    blocks = re.compile(r"^(blocks\.\d+)\.")
    other = {key: value + 1 for key, value in state.items()}
    optimiser = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]}
    arguments = argparse.Namespace(path_type="linear", prediction="velocity", z_dims=[768], resume=None)
    return {
        "bare": state,
        "module": {f"module.{key}": value for key, value in state.items()},
        "compiled": {f"module._orig_mod.{key}": value for key, value in state.items()},
        "ema": {"ema": state},
        "model": {"model": state},
        "training": {"model": other, "ema": state, "opt": optimiser, "args": arguments, "steps": 400_000},
        "compiled blocks": {"ema": {blocks.sub(r"\1._orig_mod.", key): state[key] for key in state}},
        "fsdp": {"ema": {f"_fsdp_wrapped_module.{key}": state[key] for key in state}},
        "recomputed": {
            "ema": {blocks.sub(r"\1._checkpoint_wrapped_module.", key): state[key] for key in state}
        },
        "lightning": {"state_dict": {f"net.{key}": state[key] for key in state}, "epoch": 3},
        "lightning with ema": {
            "state_dict": {f"net.{key}": other[key] for key in state}
            | {f"ema.{key}": state[key] for key in state}
        },
        "model_state_dict": {"model_state_dict": state},
        "ema_model": {"ema_model": state, "model_state_dict": other},
        "averaged model": {
            "ema": {f"module.{key}": state[key] for key in state} | {"n_averaged": torch.tensor(9)}
        },
        "online beside average": {
            "ema": {f"online_model.{key}": other[key] for key in state}
            | {f"ema_model.{key}": state[key] for key in state}
        },
        "moments first": {"optimizer": {"exp_avg": other, "exp_avg_sq": other}, "model": state},
        "moments after an average": {"ema_opt_state": {"exp_avg": other}, "ema": state},
        "gradients first": {"grads": other, "model": state},
        "no average": {"schema": other, "model": state},
        "best and model": {"best": other, "model": state},
        "same twice": {"weights": state, "copy": {"params": dict(state)}},
        "counters": {"ema": state | {"decay": 0.9999, "num_updates": torch.tensor(7)}},
        "empty ema": {"ema": {}, "model": state},
        "shadow": {"model": other, "ema": {"decay": 0.9, "shadow_params": list(state.values())}},
        "shadow of trained": {
            "model": other | {key: state[key] for key in state if key == "pos_embed"},
            "ema": {"shadow_params": [state[key] for key in state if key != "pos_embed"]},
        },
        "parallel": {
            "model": {f"module.{key}": value for key, value in other.items()},
            "ema": state,
            "opt": {},
        },
    }


@pytest.mark.parametrize("kind", wrapped({}))
@pytest.mark.parametrize("family", FAMILIES)
def test_every_wrapping_gives_the_same_weights(tmp_path, family, kind):
    state = official_state(variance=VARIANCE[family])
    bare = read_official(write(tmp_path / "bare.pt", state), family=family)
    read = read_official(write(tmp_path / f"{kind}.pt", wrapped(state)[kind]), family=family)
    assert read.architecture == bare.architecture
    assert read.state.keys() == bare.state.keys()
    assert all(torch.equal(read.state[key], bare.state[key]) for key in bare.state)


def test_several_networks_without_a_telling_name_are_refused(tmp_path):
    state = official_state()
    content = {"teacher": {key: value + 1 for key, value in state.items()}, "student": state}
    assert "holds several networks, 'teacher', 'student'" in refusal(
        write(tmp_path / "a.pt", content), "repa"
    )


def test_of_several_averages_the_first_is_read_with_a_warning(tmp_path):
    state = official_state()
    content = {"ema_0.9999": state, "ema_0.99": {key: value + 1 for key, value in state.items()}}
    path = write(tmp_path / "a.pt", content | {"args": {"path_type": "linear"}})
    with pytest.warns(UserWarning, match="several averages, 'ema_0.9999', 'ema_0.99': the first is read"):
        assert "'ema_0.9999'" in checkpoints.weights(path, "repa").found


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_both_formats_of_torch_are_read(tmp_path, suffix, zipped):
    path = tmp_path / f"official{suffix}"
    torch.save(official_state(), path, _use_new_zipfile_serialization=zipped)
    assert checkpoints.weights(path, "repa").architecture == backbones.architecture("sit-ti/2")


def test_qk_norm_is_seen_and_stays_another_network(tmp_path):
    state = official_state()
    for i in range(SIZES["ti"][0]):
        for norm in ("q_norm", "k_norm"):
            state |= {f"blocks.{i}.attn.{norm}.{part}": torch.ones(24) for part in ("weight", "bias")}
    read = checkpoints.weights(write(tmp_path / "repa.pt", state), "repa")
    assert read.architecture.name == "sit-ti/2[qk_norm=true]"
    read.build()


@pytest.mark.parametrize("name", ["sit.ckpt", "pytorch_model.bin", "SIT.PT", "sit"])
def test_the_content_of_a_file_decides_and_not_its_suffix(tmp_path, name):
    found = checkpoints.weights(write(tmp_path / name, {"state_dict": official_state()}), family="sit")
    assert found.architecture.name == "sit-ti/2"


def test_weights_in_half_precision_are_not_rounded_again(tmp_path):
    """Turning the time computes in the layer that reads it."""
    half = {key: value.half() for key, value in official_state().items()}
    whole = {key: value.float() for key, value in half.items()}
    found, expected = (
        checkpoints.weights(write(tmp_path / f"{name}.pt", state), family="sit").state
        for name, state in {"half": half, "whole": whole}.items()
    )
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_what_was_found_is_said(tmp_path):
    path = write(tmp_path / "sit.pt", {"model": official_state(variance=True)})
    found = checkpoints.weights(path, "sit").found
    for fact in ("sit-ti/2", "without EMA", "4 x 8 x 8", "10 classes", "variance", "t = 1 is noise"):
        assert fact in found
