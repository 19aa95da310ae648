"""Published data sets through the libraries' own code, from local copies in the publishers' formats."""

import hashlib
import io
import pickle
import tarfile

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10

from bench import prepare as command
from bench.core.errors import UserError
from bench.data.datasets import get
from bench.data.hub_sources import open_source

CLASSES = ["eel", "ant"]  # not in alphabetical order: the data set's own numbers count


def hub_data_set(records=10, labels=None):
    draw = np.random.default_rng(0)
    images = [Image.fromarray(draw.integers(0, 256, (20, 16, 3), dtype=np.uint8)) for _ in range(records)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)})
    content = {"image": images, "label": labels or [row % 2 for row in range(records)]}
    return images, datasets.Dataset.from_dict(content, features=features)


@pytest.mark.parametrize("format", ["parquet", "saved"])
def test_a_hugging_face_folder_becomes_a_store(tmp_path, format):
    images, rows = hub_data_set()
    folder = tmp_path / "data"
    if format == "saved":
        datasets.DatasetDict({"train": rows, "validation": rows.select([1])}).save_to_disk(folder)
    else:
        folder.mkdir()
        rows.to_parquet(folder / "train-00000-of-00001.parquet")
        rows.select([1]).to_parquet(folder / "validation-00000-of-00001.parquet")
    command.prepare(f"hf:{folder}", tmp_path / "store", command.Recipe(size=16), workers=1)
    data = get(f"folder[path={tmp_path / 'store'}]").open()
    batch = data.batch(torch.arange(10), torch.Generator())
    assert data.store.manifest.classes == tuple(CLASSES) and batch.label.tolist() == [0, 1] * 5
    for image, found in zip(images, batch.image, strict=True):
        assert np.array_equal(np.asarray(image)[2:18].transpose(2, 0, 1), found)
    assert data.reference()[1].tolist() == [1]
    key = bytes(data.store.read("key", torch.tensor([3]))[0].tolist())
    assert key == b"train/00000003".ljust(len(key), b"\0")


def test_what_a_hugging_face_data_set_lacks_is_named(tmp_path, monkeypatch):
    _, rows = hub_data_set(labels=[-1] * 10)  # as the hub's hidden test labels are
    rows.to_parquet(tmp_path / "hidden" / "train.parquet")
    with pytest.raises(
        UserError, match=r"record 0 of .*hidden, split train, has the label -1, outside 0\.\.1"
    ):
        open_source(f"hf:{tmp_path / 'hidden'}")
    datasets.Dataset.from_dict({"text": ["a"]}).to_parquet(tmp_path / "text" / "train.parquet")
    with pytest.raises(UserError, match="no column of images, only text"):
        open_source(f"hf:{tmp_path / 'text'}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="nobody/nothing is not available"):
        open_source(f"hf:{tmp_path}/nobody/nothing")


def test_cifar10_is_read_by_torchvision_from_its_archive(tmp_path, monkeypatch):
    """An archive in the authors' format, 5 + 1 pickles of rows of 3 planes; only its checksums differ."""
    draw = np.random.default_rng(0)
    monkeypatch.setenv("ALIGNMENT_BENCH_CACHE", str(tmp_path))
    lists = {"train_list": [f"data_batch_{n}" for n in range(1, 6)], "test_list": ["test_batch"]}
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    contents = {"batches.meta": pickle.dumps({"label_names": names})}
    pixels = {}
    for files in lists.values():
        for file in files:
            pixels[file] = draw.integers(0, 256, (4, 3072), dtype=np.uint8)
            contents[file] = pickle.dumps({"data": pixels[file], "labels": [3, 1, 4, 1]})
    with tarfile.open(tmp_path / CIFAR10.filename, "w:gz") as archive:
        for file, content in contents.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{file}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    md5 = {file: hashlib.md5(content).hexdigest() for file, content in contents.items()}
    for name, files in lists.items():
        monkeypatch.setattr(CIFAR10, name, [[file, md5[file]] for file in files])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": md5["batches.meta"]})
    archive_md5 = hashlib.md5((tmp_path / CIFAR10.filename).read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR10, "tgz_md5", archive_md5)
    command.prepare("cifar10", tmp_path / "store", command.Recipe(size=32), workers=1)
    data = get(f"cifar10[path={tmp_path / 'store'}]").open()
    batch = data.batch(torch.arange(20), torch.Generator())
    expected = np.concatenate([pixels[file] for file in lists["train_list"]]).reshape(20, 3, 32, 32)
    assert np.array_equal(batch.image, expected) and batch.label.tolist() == [3, 1, 4, 1] * 5
    images, labels = data.reference()
    assert np.array_equal(images, pixels["test_batch"].reshape(4, 3, 32, 32)) and len(labels) == 4


def test_an_archive_that_cannot_be_had_ends_in_its_address(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNMENT_BENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(CIFAR10, "url", (tmp_path / "nowhere").as_uri())
    with pytest.raises(
        UserError, match=r"CIFAR-10 cannot be downloaded .*cifar-10-python.tar.gz there, from"
    ):
        open_source("cifar10")
