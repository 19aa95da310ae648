"""Names of backbones: what is typed is what is printed, and a slip of the pen is understood."""

from itertools import combinations

import pytest

import backbones
from backbones.transformer import OPTIONS


def test_names_are_read_back_with_their_options():
    for base in set(backbones.names()) - set(backbones.dropped_in()):
        for options in (*combinations(OPTIONS, 1), *combinations(OPTIONS, 2)):
            usual = backbones.architecture(base)
            chosen = {option: not getattr(usual, option) for option in options}
            changed = backbones.architecture(f"{base}/4", **chosen)
            name, _, printed = changed.name.rstrip("]").partition("[")
            read = {
                option: value == "true" for option, value in (pair.split("=") for pair in printed.split(","))
            }
            assert read == chosen
            assert backbones.architecture(name, **read) == changed


def test_usual_options_are_not_in_the_name():
    assert backbones.architecture("dit-xl", learned_variance=True).name == "dit-xl/2"
    assert backbones.architecture("sit-xl/8", qk_norm=False).name == "sit-xl/8"
    assert backbones.architecture("sit-ti", learned_variance=True).name == "sit-ti/2[learned_variance=true]"


@pytest.mark.parametrize("name", ["sit-xxl/2", "xl/2", "sit-xl/3", "sit-xl/", "sit-xl/two", ""])
def test_unknown_names_are_refused(name):
    with pytest.raises(ValueError, match="Known"):
        backbones.architecture(name)


def test_a_near_miss_is_corrected():
    with pytest.raises(ValueError, match="Did you mean 'sit-xl'"):
        backbones.architecture("sitxl/2")


def test_unknown_options_are_refused():
    with pytest.raises(ValueError, match="unknown option 'qknorm' of 'sit-xl'"):
        backbones.architecture("sit-xl", qknorm=True)


def test_a_patch_that_does_not_divide_the_image_is_refused():
    with pytest.raises(ValueError, match="patch /8 does not divide an input of size 12"):
        backbones.build(backbones.architecture("sit-ti/8"), input_size=12, channels=1, num_classes=2)
