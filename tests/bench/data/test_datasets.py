"""Data sets by name: parsed once, opened only when records are asked for."""

import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from bench import run
from bench.core.errors import UserError
from bench.data import datasets, digits
from bench.data.base import Shape
from bench.training import trainer
from tests.helpers.sources_on_disk import image_folder


def test_a_dry_run_reads_each_preset_once_and_opens_data_only_to_time_a_step(monkeypatch, tmp_path):
    read, opened = Counter(), Counter()
    loads, open_digits, train = tomllib.loads, digits.load, trainer.Trainer.__init__

    def count(name, function):
        def counted(*args, **kwargs):
            opened[name] += 1
            return function(*args, **kwargs)

        return counted

    def counted_loads(text):
        read[text] += 1
        return loads(text)

    datasets._preset.cache_clear()
    monkeypatch.setattr(tomllib, "loads", counted_loads)
    monkeypatch.setattr(digits, "load", count("data", open_digits))
    monkeypatch.setattr(trainer.Trainer, "__init__", count("trainer", train))
    arguments = ["--suite", "quickstart", "--dry-run", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["run", *arguments])
    run.main()
    presets = {path.read_text() for path in Path(datasets.__file__).with_name("presets").glob("*.toml")}
    assert {text: times for text, times in read.items() if text in presets and times > 1} == {}
    assert opened["data"] == opened["trainer"]


def test_a_name_says_where_its_store_is_without_opening_anything(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ALIGNMENT_BENCH_STORES", "~/stores")
    assert datasets.get("cifar10").folder == tmp_path / "stores/cifar10"
    named = datasets.get("imagenet256[path=~/mine,reference=~/f.npz]")
    assert (named.folder, named.reference_file) == (tmp_path / "mine", tmp_path / "f.npz")
    assert str(named) == "imagenet256[path=~/mine,reference=~/f.npz]"
    assert not named.available and named.identity == "imagenet256" and named.shape == Shape(1000, 4, 32)
    with pytest.raises(UserError, match="there is no store at"):
        datasets.get("folder").shape  # noqa: B018


def test_the_presets_of_data_sets_that_come_with_the_package_say_their_shape():
    for name in datasets.names():
        dataset = datasets.get(name)
        if dataset.folder is None:
            records = dataset.open()
            assert dataset.shape == (records.classes, records.channels, records.size)
            assert datasets.of_shape(dataset.shape) == dataset


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("digit", "unknown data set 'digit'. Did you mean 'digits'"),
        ("digits[path=x]", "digits"),
        ("cifar10[pth=x]", "pth"),
    ],
)
def test_names_and_options_are_checked_at_once(text, message):
    with pytest.raises(UserError, match=message):
        datasets.get(text)


def test_a_store_the_preset_does_not_expect_is_refused_by_its_manifest_alone(tmp_path):
    from bench import prepare

    prepare.prepare(str(image_folder(tmp_path / "a", 1)), tmp_path / "s", prepare.Recipe(size=16), 1)
    for shard in (tmp_path / "s").glob("*.safetensors"):
        shard.unlink()
    found = datasets.get(f"folder[path={tmp_path / 's'}]")
    assert found.shape == Shape(3, 3, 16) and found.image_size == 16
    assert [datasets.get(name).image_size for name in ("digits", "imagenet256")] == [8, 256]
    with pytest.raises(UserError, match="has image_size=16, this data set expects 32"):
        datasets.get(f"cifar10[path={tmp_path / 's'}]").shape  # noqa: B018
