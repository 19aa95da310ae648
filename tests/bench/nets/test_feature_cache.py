"""Cached features against the encoder itself, over kills, full disks and other settings."""

import json
import shutil

import pytest
import torch

from bench.core.errors import UserError
from bench.data import datasets
from bench.nets import feature_cache, teachers
from bench.nets.feature_cache import FeatureCache

CPU = torch.device("cpu")


@pytest.fixture
def teacher(monkeypatch, tmp_path):
    encoder = teachers.load("digits-teacher[cache=true]", 8, CPU, grid=(4, 4))
    monkeypatch.setenv("ALIGNMENT_BENCH_CACHE", str(tmp_path))
    return encoder


def cached(teacher, identity="digits"):
    return FeatureCache(teacher, datasets.get("digits").open(), identity)


def test_features_are_the_encoders_own_in_half_precision(teacher):
    cache = cached(teacher)
    cache.fill()
    index = torch.tensor([1196, 0, 5, 1024])
    features = cache(index)
    expected = teacher(datasets.get("digits").open().images[index])
    assert torch.equal(features.patch_tokens, expected.patch_tokens.half().float())
    assert torch.equal(features.cls_token, expected.cls_token.half().float())
    on_disk = sum(path.stat().st_size for path in cache.folder.glob("*.safetensors"))
    assert cache.bytes == 1197 * 17 * 96 * 2 <= on_disk < 1.01 * cache.bytes
    assert cache.cost[1] > 1197 * 1e6  # multiplications


def test_it_is_filled_once_and_says_first_what_it_takes(teacher, capsys, monkeypatch):
    cached(teacher).fill()
    assert "features of digits-teacher for 1197 images: 3.91 MB in" in capsys.readouterr().out
    monkeypatch.setattr(FeatureCache, "_features", None)  # so that computing anything fails
    again = cached(teacher)
    again.fill()
    assert capsys.readouterr().out == ""
    assert again(torch.arange(3)).patch_tokens.shape == (3, 16, 96)


def test_a_cache_that_was_cut_off_is_continued_to_the_same_bytes(teacher, monkeypatch):
    monkeypatch.setattr(feature_cache, "SHARD_RECORDS", 100)
    cache, computed = cached(teacher), []
    whole = cache._features

    def killed(first, end):
        if len(computed) == 3:
            raise KeyboardInterrupt
        computed.append(first)
        return whole(first, end)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(cache, "_features", killed)
        cache.fill()
    assert not cache.complete and len(list(cache.folder.glob("*.safetensors"))) == 3
    cache.fill()
    expected = teacher(datasets.get("digits").open().images).patch_tokens.half().float()
    assert torch.equal(cache(torch.arange(1197)).patch_tokens, expected)


@pytest.mark.parametrize("harm", ["cut", "flipped", "gone", "manifest"])
def test_damaged_files_are_computed_again(teacher, monkeypatch, harm):
    monkeypatch.setattr(feature_cache, "SHARD_RECORDS", 400)
    cache = cached(teacher)
    cache.fill()
    spent, index = cache.cost, torch.arange(1197)
    path = cache.folder / ("manifest.json" if harm == "manifest" else "00001.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    if harm == "flipped":
        path.write_bytes(content[:-1000] + bytes([content[-1000] ^ 64]) + content[-999:])
    if harm == "gone":
        path.unlink()
    again = cached(teacher)
    if harm in ("cut", "flipped"):
        with pytest.warns(UserWarning, match="1 of 3 files in .* are damaged"):
            again.fill()
    else:
        again.fill()
    expected = teacher(datasets.get("digits").open().images).patch_tokens.half().float()
    assert torch.equal(again(index).patch_tokens, expected)
    assert again.complete and again.cost[0] > 0 and again.cost[1] == spent[1]
    assert harm == "manifest" or again.cost == spent


def test_a_cache_of_before_without_checksums_is_used(teacher, monkeypatch):
    cached(teacher).fill()
    path = cached(teacher).folder / "manifest.json"
    content = json.loads(path.read_text())
    del content["checksums"]
    path.write_text(json.dumps(content))
    monkeypatch.setattr(FeatureCache, "_features", None)
    cached(teacher).fill()
    assert json.loads(path.read_text()) == content


def test_another_encoder_grid_or_data_set_has_another_cache(teacher):
    coarse = teachers.load("digits-teacher[cache=true]", 8, CPU, grid=(2, 2))
    other = teachers.load("digits-untrained[cache=true]", 8, CPU, grid=(4, 4))
    caches = [cached(teacher), cached(teacher, "digits@other"), cached(coarse), cached(other)]
    assert len({cache.folder for cache in caches}) == 4


def test_a_disk_that_is_too_small_is_refused_before_anything_is_computed(teacher, monkeypatch):
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"feature cache takes 3\.91 MB more"):
        cached(teacher).fill()


def test_a_run_with_cached_features_learns_the_same_and_pays_for_filling(teacher):
    """Against the run that asks the teacher at every step: losses agree to half precision."""
    from bench.config.resolve import run_spec
    from bench.training.trainer import Trainer

    rows = []
    for name in ("digits-teacher", "digits-teacher[cache=true]"):
        trainer = Trainer(run_spec(f"repa[encoder={name}]", "sit-ti/2", "digits", 0), CPU)
        for cache in trainer.frozen.feature_caches:
            cache.fill()
        rows.append([trainer.step(step) for step in range(3)])
    plain, from_cache = ([row["raw"]["repa"].item() for row in run] for run in rows)
    assert plain == pytest.approx(from_cache, abs=1e-4)
