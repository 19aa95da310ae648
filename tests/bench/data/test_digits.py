"""The embedded data set against what is published of it, and its local nets."""

from dataclasses import replace

import pytest
import torch

from bench.data import datasets
from bench.data.digits import from_scikit_learn
from bench.diffusion.pixels import to_uint8
from bench.nets import local, teachers
from bench.nets.local import RECIPES, accuracy, local_net


@pytest.fixture(scope="module")
def digits():
    return datasets.get("digits").open()


def test_it_is_the_published_data_set_split_without_overlap(digits):
    """1,797 images; scikit-learn documents 174 to 183 of each class."""
    images, labels = digits.reference()
    assert len(digits) + len(labels) == 1797
    counts = torch.bincount(torch.cat([digits.labels, labels]))
    assert counts.min() == 174 and counts.max() == 183
    share = torch.bincount(labels) / counts
    assert share.max() - share.min() < 0.01  # stratified
    assert images.dtype == torch.uint8 and images.shape == (600, 1, 8, 8)


def test_the_images_are_those_of_scikit_learn(digits):
    original, (images, labels) = from_scikit_learn(), digits.reference()
    assert torch.equal(digits.images, original["images"]) and torch.equal(
        images, original["reference_images"]
    )
    assert torch.equal(digits.labels, original["labels"].long())
    assert torch.equal(labels, original["reference_labels"].long())


def test_images_survive_the_way_to_model_space_and_back(digits):
    batch = digits.batch(torch.arange(100), torch.Generator())
    assert batch.x0.min() >= -1 and batch.x0.max() <= 1
    assert torch.equal(to_uint8(digits.to_pixels(batch.x0), "round"), batch.image)


@pytest.mark.parametrize("name", ["digits-teacher", "digits-cnn"])
def test_local_nets_classify_held_out_images(digits, name):
    net = local_net(name)
    assert accuracy(net, digits) >= 0.97
    assert not net.training and not any(parameter.requires_grad for parameter in net.parameters())


def test_teacher_and_metric_net_differ_in_architecture():
    teacher, judge = local_net("digits-teacher"), local_net("digits-cnn")
    assert [p.shape for p in teacher.parameters()] != [p.shape for p in judge.parameters()]


def test_a_cache_cut_off_in_writing_is_made_anew(tmp_path, monkeypatch, capsys):
    brief = replace(RECIPES["digits-cnn"], epochs=1, required_accuracy=0.2)
    monkeypatch.setitem(RECIPES, "digits-cnn", brief)
    monkeypatch.setattr(local, "SHIPPED", tmp_path / "none")
    monkeypatch.setenv("ALIGNMENT_BENCH_CACHE", str(tmp_path))
    path = tmp_path / f"digits-cnn-{RECIPES['digits-cnn'].fingerprint}.safetensors"
    path.write_bytes(b"\x10\0\0\0half")
    trained = local_net("digits-cnn")
    assert "trained digits-cnn" in capsys.readouterr().out
    read = local_net("digits-cnn")
    assert "trained" not in capsys.readouterr().out
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), read.parameters(), strict=True))


def test_patch_tokens_are_in_raster_order(digits):
    """A bright corner lights up the token of its own corner most."""
    encoder = teachers.load("digits-teacher", digits.size, torch.device("cpu"))
    dark = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    for row in range(4):
        for column in range(4):
            lit = dark.clone()
            lit[..., 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = 255
            change = (encoder(lit).patch_tokens - encoder(dark).patch_tokens).norm(dim=2)[0].view(4, 4)
            weights = change.square() / change.square().sum()
            centre = (weights * torch.arange(4.0).view(4, 1)).sum(), (weights * torch.arange(4.0)).sum()
            assert abs(centre[0] - row) < 1.5 and abs(centre[1] - column) < 1.5


def test_a_coarser_grid_is_the_mean_of_its_places(digits):
    images = digits.images[:3]
    fine, coarse = (teachers.load("digits-teacher", 8, torch.device("cpu"), grid=(n, n)) for n in (4, 2))
    places = fine(images).patch_tokens.view(3, 2, 2, 2, 2, -1)  # B, row, in it, column, in it, D
    assert torch.allclose(coarse(images).patch_tokens, places.mean(dim=(2, 4)).flatten(1, 2), atol=1e-6)
    assert coarse.info.grid == (2, 2)
