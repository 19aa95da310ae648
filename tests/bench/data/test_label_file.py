"""Labels in a file, as StyleGAN, EDM and REPA write them."""

import json

import pytest

from bench.core.errors import UserError
from tests.helpers.sources_on_disk import labels, tree, understood

LABELS = [["00000/img00000000.png", 2], ["00000/img00000001.png", 0], ["00001/img00001000.png", 2]]


@pytest.mark.parametrize("folder", ["", "train/", "images/"])
def test_labels_of_a_file_count_and_not_the_folders(tmp_path, folder):
    tree(tmp_path, *(folder + name for name, _ in LABELS))
    (tmp_path / folder / "dataset.json").write_text(json.dumps({"labels": LABELS}))
    found = understood(tmp_path)
    assert labels(found) == {folder + name: str(label) for name, label in LABELS}
    assert found.classes == ("0", "1", "2")
    assert found.surprises == ["classes without a training image: 1, such as 1"]
    assert found.summary == "images: 3, classes: 2, images per class: 1 to 2"


def test_repas_labels_lie_beside_its_latents(tmp_path):
    tree(tmp_path, *(f"images/{name}" for name, _ in LABELS))
    latents = [[name.replace("img", "img-mean-std-").replace("png", "npy"), label] for name, label in LABELS]
    tree(tmp_path / "vae-sd", *(name for name, _ in latents))
    (tmp_path / "vae-sd/dataset.json").write_text(json.dumps({"labels": latents}))
    assert labels(understood(tmp_path)) == {f"images/{name}": str(label) for name, label in LABELS}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"labels": [["a.png", 0.5]]}', "gives a.png the label 0.5: labels are whole numbers"),
        ('{"labels": [["a.png", -1]]}', "the label -1"),
        ('{"labels": [["a.png"]]}', "must be pairs"),
        ('{"labels": [["other.png", 1]]}', "labels none of the images"),
        ('{"labels": [', "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ('{"labels": [["a.png", 0], ["./a.png", 1]]}', "gives a.png two labels, 0 and 1"),
    ],
)
def test_labels_that_do_not_serve_are_refused(tmp_path, content, message):
    (tree(tmp_path, "a.png", "b.png") / "dataset.json").write_text(content)
    with pytest.raises(UserError, match=message):
        understood(tmp_path)


def test_images_without_a_label_are_told(tmp_path):
    (tree(tmp_path, "a.png", "b.png", "c.png") / "dataset.json").write_text(
        json.dumps({"labels": [["a.png", 0], ["b.png", 1], ["gone.png", 1]]})
    )
    found = understood(tmp_path)
    assert labels(found) == {"a.png": "0", "b.png": "1"}
    assert "labels in dataset.json of files that are no images: 1, such as gone.png" in found.surprises[0]
    assert "without a label in dataset.json would be ignored: 1, such as c.png" in found.surprises[1]


def test_no_labels_mean_one_class_whatever_the_folders(tmp_path):
    (tree(tmp_path, "00000/1.png", "00001/1.png") / "dataset.json").write_text('{"labels": null}')
    found = understood(tmp_path)
    assert len(found.classes) == 1 and found.surprises == ["all training images are of one class"]


def test_another_programs_dataset_json_is_no_list_of_labels(tmp_path):
    (tree(tmp_path, "a/1.png", "b/1.png") / "dataset.json").write_text('{"title": "cats"}')
    assert understood(tmp_path).classes == ("a", "b")
