"""Networks of this suite: shipped, remade, and known by the checksum of their weights."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from bench.config import resolve
from bench.config.spec import Protocol, protocol_hash
from bench.core.errors import UserError
from bench.core.files import sha256
from bench.data import datasets
from bench.nets import local, metric_nets
from bench.nets.recipes import RECIPES

DIGITS = [name for name, recipe in RECIPES.items() if recipe.data == "digits" and recipe.epochs]


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNMENT_BENCH_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", DIGITS)
def test_networks_of_the_digits_ship_with_the_package(name, empty_cache, monkeypatch):
    monkeypatch.setattr(local, "_train", None)  # so that training anything fails
    net = local.local_net(name)
    assert local.accuracy(net, datasets.get("digits").open()) >= RECIPES[name].required_accuracy
    path = local.weight_file(name)
    assert path is not None and path.parent == local.SHIPPED and path.stat().st_size < 2**20
    assert not any(empty_cache.iterdir())


def test_fingerprints_are_those_under_which_networks_were_cached_before():
    assert RECIPES["digits-teacher"].fingerprint == "756351365608"
    assert RECIPES["digits-cnn"].fingerprint == "5b2d6d52354a"


def test_networks_of_photographs_ship_under_todays_fingerprints():
    """The store that they were trained on is not here: its identity ends the name."""
    for name in (name for name, recipe in RECIPES.items() if recipe.data == "cifar10-16"):
        (file,) = local.SHIPPED.glob(f"{name}-*")
        assert file.name.startswith(f"{name}-{RECIPES[name].fingerprint}-") and file.stat().st_size < 2**20


def test_a_task_is_part_of_a_fingerprint():
    recipe = RECIPES["digits-cnn"]
    assert replace(recipe, task="rotations").fingerprint != recipe.fingerprint


@pytest.mark.parametrize("name", ["digits-cnn", "digits-vit"])
def test_a_network_of_rotations_has_four_outputs(name, monkeypatch):
    monkeypatch.setitem(RECIPES, name, replace(RECIPES[name], task="rotations", epochs=0))
    images = datasets.get("digits").open().reference()[0][:2]
    assert local.local_net(name)(images / 127.5 - 1).logits.shape == (2, 4)


def test_turned_images_are_those_of_numpy():
    images = torch.rand(8, 3, 5, 5)
    quarters = torch.arange(8) % 4
    expected = [np.rot90(x.numpy(), int(k), axes=(1, 2)) for x, k in zip(images, quarters, strict=True)]
    assert np.array_equal(local.turned(images, quarters).numpy(), np.stack(expected))


def test_a_judge_can_learn_without_labels(empty_cache, monkeypatch):
    recipe = replace(RECIPES["digits-cnn"], task="rotations", epochs=3, required_accuracy=0.5)
    monkeypatch.setitem(RECIPES, "digits-cnn", recipe)
    net = metric_nets.feature_net("digits-cnn")  # not shipped, so trained: chance is 0.25
    found = net(datasets.get("digits").open().reference()[0][:4])
    assert not net.classifies and found.logits is None and found.pooled.shape == (4, 64)


def test_checksums_are_of_the_files_and_of_what_the_table_knows(monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    path = local.weight_file("digits-cnn")
    assert path is not None
    names = ("digits-cnn", "pixels", "digits-cnn", "inception", "dinov2-b", "digits-untrained")
    assert metric_nets.checksums(names) == {"digits-cnn": sha256(path)[:16], "inception": "6726825d0af5f729"}
    with pytest.raises(UserError, match="Did you mean 'inception'"):
        metric_nets.checksums(["inceptoin"])


def test_other_weights_make_another_protocol(tmp_path, monkeypatch):
    """A file of weights of another machine, in the hub's cache."""
    hashes = []
    for content in (b"one", b"another"):
        file = tmp_path / f"{content.decode()}.safetensors"
        file.write_bytes(content)
        monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, file=file: str(file))
        spec = resolve.run_spec("baseline", "sit-ti/2", "digits", 0, protocol={"feature_nets": ["dinov2-b"]})
        hashes.append(spec.protocol.hash)
        assert spec.protocol.checksums == (f"dinov2-b@{sha256(file)[:16]}",)
    assert hashes[0] != hashes[1]
    with pytest.raises(UserError, match="weights of dinov2-b on this machine are others"):
        metric_nets.refuse_others([f"dinov2-b@{sha256(tmp_path / 'one.safetensors')[:16]}"])
    metric_nets.refuse_others(spec.protocol.checksums)


def test_a_protocol_without_checksums_keeps_its_hash():
    spec = resolve.run_spec("baseline", "sit-ti/2", "digits", 0)
    content = spec.protocol.model_dump(mode="json")
    assert spec.protocol.checksums
    del content["checksums"]
    before = json.loads(json.dumps(content))
    assert Protocol.model_validate(before).hash == protocol_hash(before) != spec.protocol.hash


def test_a_network_that_is_nowhere_is_trained_and_kept(empty_cache, monkeypatch):
    monkeypatch.setattr(local, "SHIPPED", empty_cache / "nowhere")
    trained = []
    monkeypatch.setattr(local, "_train", lambda name, *_: trained.append(name))
    monkeypatch.setattr(local, "accuracy", lambda net, data: 1.0)
    assert metric_nets.checksums(["digits-cnn"]) == {}
    metric_nets.train_missing(["pixels", "digits-cnn"])
    assert trained == ["digits-cnn"] and list(metric_nets.checksums(["digits-cnn"])) == ["digits-cnn"]
    (file,) = empty_cache.glob("digits-cnn-*.safetensors")
    file.write_bytes(b"torn")
    local.local_net("digits-cnn")
    assert trained == ["digits-cnn"] * 2


@pytest.mark.parametrize("name", ["digits-cnn", "digits-vit", "digits-teacher", "dinov2-b"])
def test_images_of_channels_that_a_network_does_not_take_are_refused_in_one_line(name):
    from bench.nets.base import with_channels

    images = torch.zeros(2, 4 if name == "dinov2-b" else 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(UserError, match=rf"{name} takes images of 1 .*, these have") as error:
        if name == "dinov2-b":
            with_channels(images, 3, name)
        else:
            metric_nets.feature_net(name)(images)
    assert "\n" not in str(error.value)


def test_a_transformer_refuses_images_of_another_size():
    with pytest.raises(UserError, match="8 x 8 pixels, these have 16 x 16"):
        metric_nets.feature_net("digits-vit")(torch.zeros(2, 1, 16, 16, dtype=torch.uint8))
