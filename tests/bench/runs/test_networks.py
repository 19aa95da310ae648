"""Which metrics a method's own networks spoil: by their weights, whatever they are called."""

import pytest
import torch

from bench.config.resolve import run_spec
from bench.core.errors import UserError
from bench.runs.formats import EvaluationRow
from bench.runs.networks import leaky, refuse_images, required

OWN_DEFAULT = (
    "from methods.base import Method, Needs\n"
    "class Mine(Method):\n"
    "    encoder: str = 'digits-cnn'\n"
    "    def build(self, backbone, encoder):\n"
    "        encoder(self.encoder)\n"
)
REWARD_IN_CODE = (
    "from methods.base import Method, Needs\n"
    "class Mine(Method):\n"
    "    def needs(self, step, steps):\n"
    "        return Needs(rewards=('tokens',), reward_net='digits-cnn')\n"
)


def run(method, *metric_nets):
    return run_spec(str(method), "sit-ti/2", "digits", 0, protocol={"feature_nets": metric_nets})


@pytest.mark.parametrize(
    ("method", "metric_nets", "expected"),
    [
        ("vrpo[semantic_reward=clip-image]", ("clip-vit-b-32", "pixels"), ("clip-vit-b-32",)),
        ("repa[encoder=clip-l]", ("clip-vit-l-14",), ("clip-vit-l-14",)),
        (
            "repa[encoder=dinov2-b]",
            ("timm:vit_base_patch14_dinov2.lvd142m", "dinov2-l"),
            ("timm:vit_base_patch14_dinov2.lvd142m",),
        ),
        ("baseline", ("digits-teacher",), ()),
        ("repa", ("digits-teacher", "digits-cnn"), ("digits-teacher",)),
        ("repa[weight=0]", ("digits-teacher",), ()),  # loads no encoder
        ("repa[encoder=dinov2-b+clip-l]", ("clip-vit-l-14", "dinov2-b"), ("clip-vit-l-14", "dinov2-b")),
        ("vrpo[perceptual_reward=lpips-vgg]", ("timm:vgg16.tv_in1k",), ("timm:vgg16.tv_in1k",)),
        ("vrpo[semantic_reward=latent]", ("digits-teacher",), ("digits-teacher",)),
        ("vrpo[reward_net=digits-cnn]", ("digits-cnn",), ("digits-cnn",)),
    ],
)
def test_a_metric_network_leaks_if_the_built_method_needs_it(method, metric_nets, expected):
    assert leaky(run(method, *metric_nets)) == expected


@pytest.mark.parametrize("source", [OWN_DEFAULT, REWARD_IN_CODE])
def test_what_a_method_file_needs_by_itself_leaks(tmp_path, source):
    (tmp_path / "mine.py").write_text(source)
    assert leaky(run(tmp_path / "mine.py", "digits-cnn", "random-conv")) == ("digits-cnn",)


def test_a_file_of_weights_is_recognised_by_its_content(tmp_path, monkeypatch):
    """The metric network's own file under a name that says nothing, for an architecture without a tag."""
    published = tmp_path / "open_clip_model.safetensors"
    published.write_bytes(b"the published weights")
    (tmp_path / "copy.bin").write_bytes(b"the published weights")
    (tmp_path / "other.bin").write_bytes(b"other weights")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: str(published))
    for file, expected in (("copy.bin", ("clip-vit-l-14",)), ("other.bin", ())):
        method = f"repa[encoder=clip:ViT-L-14-quickgelu[weights={tmp_path / file}]]"
        assert leaky(run(method, "clip-vit-l-14")) == expected


def test_a_method_file_that_is_gone_leaves_the_marks_of_earlier_rows(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(OWN_DEFAULT)
    spec = run(file, "digits-cnn")
    file.write_text(OWN_DEFAULT.replace("digits-cnn", "digits-teacher"))
    with pytest.raises(UserError, match="was changed"):
        leaky(spec)
    row = EvaluationRow(step=1, seconds=1.0, protocol=spec.protocol.hash, metrics={}, leaky=("digits-cnn",))
    assert leaky(spec, [row]) == ("digits-cnn",)


def test_asking_draws_no_random_number_of_the_run():
    torch.manual_seed(0)
    expected = torch.rand(())
    torch.manual_seed(0)
    assert required(run("vrpo", "pixels")) == ("digits-teacher",)
    assert torch.rand(()) == expected


@pytest.mark.parametrize(
    ("method", "metric_net", "message"),
    [
        ("baseline", "digits-cnn", "digits-cnn takes images of 1 channel, these have 3"),
        ("repa[encoder=digits-teacher]", "pixels", "digits-teacher takes images of 1 channel"),
        ("repa[encoder=cifar10-teacher]", "cifar10-cnn", ""),
    ],
)
def test_images_that_a_network_cannot_take_are_refused_before_anything_runs(method, metric_net, message):
    spec = run_spec(method, "sit-ti/2", "cifar10", 0, protocol={"feature_nets": [metric_net]})
    if not message:
        refuse_images(spec)
        return
    with pytest.raises(UserError, match=message):
        refuse_images(spec)


def test_layers_that_an_encoder_does_not_have_are_refused_by_the_plan(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from methods.base import EncoderLayers, Method, Needs\n"
        "class Mine(Method):\n"
        "    def build(self, backbone, encoder):\n"
        "        list(encoder('digits-teacher').sample(4))\n"
        "    def needs(self, step, steps):\n"
        "        layers = {'digits-teacher': EncoderLayers(attention=(-1,))}\n"
        "        return Needs(encoders=('digits-teacher',), encoder_layers=layers)\n"
    )
    with pytest.raises(UserError, match="no attention heads"):
        required(run(tmp_path / "mine.py", "pixels"))
