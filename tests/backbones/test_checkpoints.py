"""Our own files come back as they were saved; anything less than a whole network is refused."""

import argparse
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import backbones
from backbones import checkpoints
from backbones.transformer import OPTIONS
from backbones.weights import NAMED
from tests.helpers import official_forward
from tests.helpers.official_files import (
    CLASSES,
    assert_close,
    official_state,
    random_input,
    refusal,
    write,
)


def test_a_refusal_lists_what_the_file_has(tmp_path):
    content = {"network": {"conv.weight": torch.zeros(2)}, "epoch": 3, "loss": 0.1}
    message = refusal(write(tmp_path / "other.pt", content), "sit")
    assert "network (conv.weight, ...), epoch, loss" in message


def test_the_process_of_a_saved_network_is_kept(tmp_path):
    network = backbones.build(backbones.architecture("sit-ti"), input_size=8, channels=4, num_classes=3)
    checkpoints.save(tmp_path / "ours.safetensors", network, "flow[path=gvp]")
    assert checkpoints.weights(tmp_path / "ours.safetensors").process == "flow[path=gvp]"


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
