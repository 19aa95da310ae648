"""Official files of every kind are read as the functions they are; anything less than whole is refused."""

import argparse
import json
import re
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import backbones
from backbones import SIZES, checkpoints
from backbones.official import OFFICIAL, read_official
from backbones.transformer import OPTIONS
from backbones.weights import NAMED
from tests.helpers import official_forward

CLASSES = 10
FAMILIES = ("sit", "repa", "dit")
# The families' files as they are published: only REPA's have no second half of the outputs.
VARIANCE = {"sit": True, "repa": False, "dit": True}
OFFICIAL_VARIANTS = [f"{size}/{patch}" for size in ("s", "b", "l", "xl") for patch in (2, 4, 8)]


def official_shapes(name, **options):
    size, patch = name.split("/")
    depth, width, _ = SIZES[size]
    return official_forward.shapes(depth, width, patch=int(patch), **options)


def official_state(name="ti/2", **options):
    return official_forward.random_state(
        official_shapes(name, **{"input_size": 8, "classes": CLASSES} | options)
    )


def write(path, content):
    torch.save(content, path)
    return path


def random_input(input_size=8):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(6, 4, input_size, input_size, generator=generator)
    return x, torch.tensor([0.0, 0.04, 0.3, 0.5, 0.999, 1.0]), torch.tensor([0, 10, 3, 9, 10, 1])


def assert_close(ours, official):
    assert (ours - official).abs().max() < 1e-5 * official.abs().max()


# --- the function of a file -----------------------------------------------------------------------


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


# --- what is in a file ----------------------------------------------------------------------------


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


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "arguments", "process"),
    [
        ("repa", {"path_type": "linear", "prediction": "v"}, "flow[path=linear]"),
        ("repa", {"path_type": "cosine", "prediction": "v"}, "flow[path=gvp]"),
        ("sit", {"path_type": "Linear", "prediction": "velocity"}, "flow[path=linear]"),
        ("sit", {"path_type": "GVP"}, "flow[path=gvp]"),
        ("sit", {"path_type": "VP", "prediction": "noise"}, "flow[path=vp,prediction=noise]"),
        ("sit", {"prediction": "noise"}, "flow[path=linear,prediction=noise]"),
    ],
)
def test_path_and_prediction_are_those_of_the_arguments(tmp_path, family, arguments, process):
    state = official_state(variance=VARIANCE[family])
    places = [
        {"args": argparse.Namespace(**arguments)},
        {"config": {"transport": arguments}},
        {"hyper_parameters": {key.replace("_", "-"): value for key, value in arguments.items()}},
        {"history": [{"args": (argparse.Namespace(**arguments),)}]},
        {"a": {"b": {"c": {"d": {"e": {"f": {key.upper(): f" {arguments[key]} " for key in arguments}}}}}}},
        {"config": json.dumps({"transport": arguments})},
        {"config": "".join(f"{key}: {value}\n" for key, value in arguments.items())},
        {"argv": ["train.py", *(f"--{key.replace('_', '-')}={value}" for key, value in arguments.items())]},
        {"command": "train.py " + " ".join(f"--{key} {value}" for key, value in arguments.items())},
    ]
    for place in places:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read = checkpoints.weights(write(tmp_path / "official.pt", {"ema": state} | place), family)
        assert read.process == process
    if family == "sit":  # a noise does not change its sign with the direction of time
        x, t, label = random_input()
        sign = 1 if "noise" in process else -1
        network = read.build().eval()
        official = sign * official_forward.sit(state, x, 1 - t, label, network.architecture.heads)
        assert_close(network(x, t, label).prediction, official)


@pytest.mark.parametrize(
    "places",
    [
        {"args": {"path_type": "linear"}, "config": {"path_type": "GVP"}},
        {"args": {"path_type": "trigonometric"}},
        {"args": {"prediction": "score"}},
    ],
)
def test_paths_that_contradict_or_are_unknown_are_refused(tmp_path, places):
    path = write(tmp_path / "official.pt", {"ema": official_state()} | places)
    assert re.search("was trained with (path_type|prediction) .*; only one of", refusal(path, "repa"))


def test_prose_decides_no_path(tmp_path):
    content = {
        "ema": official_state(),
        "note": "Prediction of vp: see the path type of the paper. A prediction.",
    }
    with pytest.warns(UserWarning, match="does not say on which path"):
        assert checkpoints.weights(write(tmp_path / "a.pt", content), "repa").process == ""


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


@pytest.mark.parametrize("family", ["sit", "repa"])
def test_files_without_arguments_are_read_with_a_warning(tmp_path, family):
    path = write(tmp_path / "bare.pt", official_state(variance=VARIANCE[family]))
    with pytest.warns(UserWarning, match="does not say on which path"):
        assert checkpoints.weights(path, family).process == ""


REPA_ARGUMENTS = {"enc_type": "dinov2-vit-b", "proj_coeff": 0.5, "model": "SiT-XL/2"}
SIT_ARGUMENTS = {"model": "SiT-XL/2", "train_eps": None, "sample_eps": None}


@pytest.mark.parametrize(
    ("told", "content"),
    [
        ("repa", {"ema": official_state(projectors=(768,))}),
        ("repa", {"model": official_state(projectors=(768,)), "ema": official_state()}),
        ("repa", {"ema": official_state(), "args": argparse.Namespace(**REPA_ARGUMENTS)}),
        ("sit", {"ema": official_state(variance=True), "args": SIT_ARGUMENTS}),
        ("dit", {"ema": official_state(variance=True), "args": argparse.Namespace(model="DiT-XL/2")}),
    ],
    ids=["projectors", "projectors of the other", "arguments", "sit", "dit"],
)
def test_a_family_that_contradicts_the_file_is_refused(tmp_path, told, content):
    path = write(tmp_path / "official.pt", content)
    for family in set(FAMILIES) - {told}:
        assert f"say '{told}'" in refusal(path, family)
    assert OFFICIAL[told] in checkpoints.weights(path).found


@pytest.mark.parametrize("arguments", [{"model": "SiT-S/2"}, {"config": {"model": {"name": "SiT-XL"}}}])
def test_what_dit_never_stores_is_no_dit(tmp_path, arguments):
    path = write(tmp_path / "official.pt", {"ema": official_state(variance=True), "args": arguments})
    assert "not of 'dit'" in refusal(path, "dit")
    assert "family: 'sit' (SiT's official code), 'repa' (REPA's code or a fork)." in refusal(path, None)


def test_a_path_beside_dit_is_told(tmp_path):
    content = {"ema": official_state(variance=True), "args": {"path_type": "Linear"}}
    path = write(tmp_path / "official.pt", content)
    assert "family: 'sit' (SiT's official code), 'repa' (REPA's code or a fork)." in refusal(path, None)
    with pytest.warns(UserWarning, match="path_type, which DiT's official code does not have"):
        checkpoints.weights(path, "dit")


def test_a_refusal_lists_what_the_file_has(tmp_path):
    content = {"network": {"conv.weight": torch.zeros(2)}, "epoch": 3, "loss": 0.1}
    message = refusal(write(tmp_path / "other.pt", content), "sit")
    assert "network (conv.weight, ...), epoch, loss" in message


def test_the_process_of_a_saved_network_is_kept(tmp_path):
    network = backbones.build(backbones.architecture("sit-ti"), input_size=8, channels=4, num_classes=3)
    checkpoints.save(tmp_path / "ours.safetensors", network, "flow[path=gvp]")
    assert checkpoints.weights(tmp_path / "ours.safetensors").process == "flow[path=gvp]"


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_both_formats_of_torch_are_read(tmp_path, suffix, zipped):
    path = tmp_path / f"official{suffix}"
    torch.save(official_state(), path, _use_new_zipfile_serialization=zipped)
    assert checkpoints.weights(path, "repa").architecture == backbones.architecture("sit-ti/2")


def test_projectors_tell_repa_and_are_set_apart(tmp_path):
    state = official_state(projectors=(768, 1024))
    read = checkpoints.weights(write(tmp_path / "repa.pt", {"ema": state}))
    assert read.projectors.keys() == {
        f"{i}.{j}.{kind}" for i in (0, 1) for j in (0, 2, 4) for kind in ("weight", "bias")
    }
    assert torch.equal(read.projectors["1.4.weight"], state["projectors.1.4.weight"])
    assert not any(key.startswith("projectors") for key in read.state)
    assert torch.equal(read.state["final_layer.linear.weight"], state["final_layer.linear.weight"])
    assert "repa" in read.found.lower() and "2 projectors" in read.found and "EMA" in read.found


@pytest.mark.parametrize("aligned", [1, 3])
def test_first_files_of_repa_count_the_blocks_after_the_aligned_one_anew(tmp_path, aligned):
    state = official_state(projectors=(768,))
    legacy = {}
    for key, value in state.items():
        if key.startswith("blocks.") and int(key.split(".")[1]) >= aligned:
            _, number, rest = key.split(".", 2)
            key = f"decoder_blocks.{int(number) - aligned}.{rest}"
        legacy[key] = value
    read = checkpoints.weights(write(tmp_path / "last.pt", {"ema": legacy}))
    assert all(torch.equal(value, state[key]) for key, value in read.state.items())


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


# --- our own files --------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, *({option: True} for option in OPTIONS)], ids=str)
@pytest.mark.parametrize("name", ["sit-ti/2", "dit-ti/4"])
def test_a_saved_network_comes_back_as_the_same_function(tmp_path, name, options):
    architecture = backbones.architecture(name, **options)
    network = backbones.build(architecture, input_size=8, channels=4, num_classes=CLASSES)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    checkpoints.save(tmp_path / "ours.safetensors", network)
    loaded = checkpoints.load(tmp_path / "ours.safetensors")
    assert loaded.architecture == architecture
    assert torch.equal(loaded(*random_input()).prediction, network(*random_input()).prediction)
    assert list(tmp_path.iterdir()) == [tmp_path / "ours.safetensors"]
    read = checkpoints.weights(tmp_path / "ours.safetensors")
    assert (read.input_size, read.channels, read.num_classes) == (8, 4, CLASSES)


@torch.no_grad()
def test_an_official_file_saved_as_ours_stays_converted(tmp_path):
    state = official_state(variance=True)
    network = checkpoints.weights(write(tmp_path / "sit.pt", state), "sit").build()
    checkpoints.save(tmp_path / "ours.safetensors", network)
    x, t, label = random_input()
    official = -official_forward.sit(state, x, 1 - t, label, network.architecture.heads)
    assert_close(checkpoints.load(tmp_path / "ours.safetensors")(x, t, label).prediction, official)


def test_a_network_on_disk_is_replaced_whole(tmp_path):
    path = tmp_path / "ours.safetensors"
    for name in ("sit-ti/2", "dit-ti/4"):
        network = backbones.build(backbones.architecture(name), input_size=8, channels=4, num_classes=3)
        checkpoints.save(path, network)
        assert checkpoints.load(path).architecture.name == name


# --- refusals -------------------------------------------------------------------------------------


def refusal(path, family=None):
    """The message, which is one line and names the file."""
    with pytest.raises(ValueError) as raised:
        checkpoints.weights(path, family)
    message = str(raised.value)
    assert "\n" not in message and str(path) in message
    return message


def test_a_family_that_cannot_be_told_is_asked_for(tmp_path):
    message = refusal(write(tmp_path / "official.pt", official_state(variance=True)))
    assert all(f"'{family}'" in message for family in FAMILIES)
    assert "'mmdit'" in refusal(write(tmp_path / "official.pt", official_state()), "mmdit")


def test_half_matching_files_are_refused_naming_the_first_differences(tmp_path):
    state = official_state()
    del state["blocks.1.mlp.fc1.bias"], state["t_embedder.mlp.2.weight"]
    state |= {"cls_projectors.weight": torch.zeros(3), "blocks.2.attn.proj.bias": torch.zeros(7)}
    message = refusal(write(tmp_path / "half.pt", state), "repa")
    assert "missing: t_embedder.mlp.2.weight, blocks.1.mlp.fc1.bias" in message
    assert "unexpected: cls_projectors.weight" in message
    assert "blocks.2.attn.proj.bias (7,) for (96,)" in message


def test_many_differences_are_counted(tmp_path):
    state = {key: value for key, value in official_state().items() if not key.startswith("blocks.1.")}
    message = refusal(write(tmp_path / "half.pt", state), "dit")
    assert message.count("blocks.1.") == NAMED and "and 7 more" in message


def changed(key, value):
    return official_state() | {key: value}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({}, "no parameters"),
        ({"ema": {}, "model": {}}, "no parameters"),
        ({"steps": 3, "args": argparse.Namespace()}, "no parameters"),
        ([torch.zeros(2)], "list"),
        ({"conv.weight": torch.zeros(2)}, "conv.weight"),
        (changed("pos_embed", torch.zeros(1, 15, 96)), "pos_embed (1, 15, 96)"),
        (changed("pos_embed", torch.zeros(96)), "pos_embed"),
        (changed("final_layer.linear.weight", torch.zeros(48, 96)), "final_layer.linear.weight (48, 96)"),
        (changed("blocks.9.attn.qkv.weight", torch.zeros(288, 96)), "10 blocks of width 96"),
        ({"ema": official_state(), "args": argparse.Namespace(prediction="score")}, "score"),
        (changed("blocks.0.attn.proj.bias", torch.zeros(96, dtype=torch.int8)), "proj.bias torch.int8"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_official_network_is_refused(tmp_path, content, reason):
    assert reason in refusal(write(tmp_path / "other.pt", content), "sit")


def test_files_that_would_run_code_are_not_run(tmp_path):
    class Intruder:
        def __reduce__(self):
            return Path.touch, (tmp_path / "intruder",)

    message = refusal(write(tmp_path / "evil.pt", {"ema": official_state(), "args": Intruder()}), "sit")
    assert "only weights" in message
    assert not (tmp_path / "intruder").exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_damaged_files_are_refused(tmp_path, suffix):
    path = tmp_path / f"damaged{suffix}"
    if suffix == ".pt":
        write(path, official_state())
    else:
        network = backbones.build(backbones.architecture("sit-ti"), input_size=8, channels=4, num_classes=3)
        checkpoints.save(path, network)
    whole = path.read_bytes()
    for content in (
        b"",
        b"not weights",
        bytes(range(256)) * 4,
        whole[: len(whole) // 2],
        whole[:-1],
        whole[1:],
    ):
        path.write_bytes(content)
        refusal(path, "sit")


def test_a_sit_file_is_not_taken_for_repas(tmp_path):
    """It would be read with time and velocity the wrong way round."""
    path = write(tmp_path / "sit.pt", official_state(variance=True))
    assert "say 'sit'" in refusal(path, "repa")


def test_safetensors_of_others_are_refused(tmp_path):
    path = tmp_path / "foreign.safetensors"
    state = official_state()
    save_file(state, path)
    assert "not written by this suite" in refusal(path)
    for header in ("no json", "[]", "{}", json.dumps({"architecture": {"family": "unet"}, "channels": 4})):
        save_file(state, path, metadata={checkpoints.HEADER: header})
        assert "not written by this suite" in refusal(path)


def test_a_header_that_does_not_fit_its_tensors_is_refused(tmp_path):
    path = tmp_path / "ours.safetensors"
    network = backbones.build(backbones.architecture("sit-ti"), input_size=8, channels=4, num_classes=3)
    network.num_classes = 4
    checkpoints.save(path, network)
    assert "y_embedder.embedding_table.weight (4, 96) for (5, 96)" in refusal(path)


@pytest.mark.parametrize(
    "name", ["absent.pt", "absent.safetensors", "weights.ckpt", "folder.pt", "folder.safetensors"]
)
def test_files_that_are_not_there_or_of_unknown_kind_are_refused(tmp_path, name):
    if name.startswith("folder"):
        (tmp_path / name).mkdir()
    refusal(tmp_path / name, "sit")
