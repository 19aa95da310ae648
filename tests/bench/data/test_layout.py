"""Interpretation of folders and archives of images: splits, classes, labels, and ignored files."""

import pytest

from bench.core.errors import UserError
from bench.data import ignored_files
from bench.data.containers import open_container
from bench.data.layout import survey
from tests.helpers.sources_on_disk import labels, tree, understood


@pytest.mark.parametrize(
    "files",
    [
        "cat/1.png=cat dog/1.png=dog",
        "x/y/cat/1.png=cat x/y/dog/1.png=dog",
        # Tiny-ImageNet
        "train/n1/images/a.JPEG=n1 train/n2/images/b.JPEG=n2",
        # parts in any case, at any depth, also within classes
        "Train/cat/1.png=cat Train/dog/1.png=dog VAL/cat/2.png=",
        "cat/train/1.png=cat dog/train/1.png=dog dog/test/2.png=",
        "TRAINING/cat/1.png=cat TRAINING/dog/1.png=dog valid/cat/2.png= testing/dog/2.png=",
        # a class called train
        "car/1.png=car train/1.png=train",
        "car/images/1.png=car train/images/1.png=train",
        "train/car/1.png=car train/train/1.png=train test/train/1.png=",
    ],
)
def test_classes_are_the_folders_that_tell_images_apart(tmp_path, files):
    expected = dict(text.split("=") for text in files.split())
    found = understood(tree(tmp_path, *expected))
    assert labels(found) == {key: name for key, name in expected.items() if name} and not found.surprises


def test_reference_images_have_the_classes_of_the_training_part(tmp_path):
    found = understood(tree(tmp_path, "train/a/1.png", "train/b/1.png", "Validation/b/2.png", "test/a/3.png"))
    assert labels(found, "reference") == {"Validation/b/2.png": "b", "test/a/3.png": "a"}
    assert found.summary.splitlines() == [
        "train: images: 2, classes: 2, images per class: 1",
        "reference: images: 2, classes: 2, images per class: 1",
    ]


@pytest.mark.parametrize(
    ("files", "surprise"),
    [
        ("1.png 2.png", "of one class"),
        ("images/1.png images/2.png", "of one class"),
        ("train/1.png test/2.png", "of one class"),
        # validation images without class folders: ImageNet, Tiny-ImageNet
        (
            "train/a/1.png train/b/1.png val/2.png",
            "would be ignored: 1, such as val/2.png",
        ),
        ("train/a/images/1.png train/b/images/1.png val/images/2.png", "of no class of the training part"),
        ("train/a/1.png train/b/1.png test/c/1.png", "such as test/c/1.png"),
        ("train/a/1.png train/b/1.png test/a/1.png extra/1.png", "in neither train nor a reference part"),
        (
            "grid.png a/1.png b/1.png",
            "next to the class folders would be ignored: 1, such as grid",
        ),
        ("a/1.png a/more/2.png b/1.png", "images lie at different depths"),
        ("cat/2019/1.png cat/2020/1.png dog/2019/1.png dog/2020/1.png", "'cat' would be a class, and '20"),
        ("animals/cat/1.png cars/van/1.png", "'cat' would be a class, and 'animals' not"),
        ("a/1.png b/1.png b/inner.zip", "archives inside (unpack them first) would be ignored: 1"),
        (
            "a/1.png b/1.png b/2.heic",
            "no images by their suffix '.heic' would be ignored: 1",
        ),
    ],
)
def test_what_a_person_should_confirm(tmp_path, files, surprise):
    found = understood(tree(tmp_path, *files.split()))
    assert any(surprise in text for text in found.surprises)
    with pytest.raises(UserError, match="If this is right, add --yes"):
        found.refuse_surprises("it")


def test_a_class_without_images_is_told(tmp_path):
    tree(tmp_path, "a/1.png", "c/1.png", "b/notes.txt")
    (tmp_path / "empty").mkdir()
    (surprise,) = understood(tmp_path).surprises
    assert surprise == "folders without images next to those of classes: 2, such as b"


def test_what_is_no_image_of_the_data_is_passed_over_and_counted(tmp_path):
    run = tree(
        tmp_path / "run", "samples/step-00000500.png", "samples/a/1.png", "samples/b/step-00000500.png"
    )
    (run / "spec.json").write_text("{}")
    others = ["._1.png", ".ipynb_checkpoints/1-checkpoint.png", "a/.DS_Store", "a/Thumbs.db", "a/1.txt"]
    tree(run / "samples", *others)
    container = open_container(run / "samples")
    images, layout_ = survey(container)
    assert images == ["a/1.png", "b/step-00000500.png"] and not layout_.surprises
    assert {why: len(keys) for why, keys in layout_.passed_over.items()} == {
        ignored_files.HIDDEN: 4,
        ignored_files.GRIDS: 1,
        ignored_files.LISTS: 1,
    }
    assert "ignored, sample grids of runs: 1, such as step-00000500.png" in layout_.summary


def test_a_scored_folder_of_several_parts_is_to_be_confirmed(tmp_path):
    images, found = survey(open_container(tree(tmp_path, "train/a/1.png", "test/a/1.png", "test/b/1.png")))
    assert len(images) == 3 and "name one folder" in found.surprises[0]
