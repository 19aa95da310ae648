"""Networks of diffusers: the same outputs as the class of diffusers itself, both ways."""

import json

import pytest
import torch
from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel

import backbones
from backbones import checkpoints, diffusers_dit
from bench.config import resolve

CLASSES, CHANNELS, SIZE = 5, 3, 8
ROUNDING = 2e-3  # of angles of float32, t times a frequency, at the last timesteps; outputs are about 5


def theirs(norm_eps=1e-3, learned_variance=True):
    """A tiny network of diffusers with random weights, equal embeddings in all blocks as DiT has them."""
    torch.manual_seed(0)
    network = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=CHANNELS,
        out_channels=CHANNELS * (2 if learned_variance else 1),
        num_layers=3,
        sample_size=SIZE,
        patch_size=2,
        num_embeds_ada_norm=CLASSES,
        norm_eps=norm_eps,
    ).eval()
    for parameter in network.parameters():
        parameter.data.normal_(0, 0.3)
    first, *others = network.transformer_blocks
    for block in others:
        block.norm1.emb.load_state_dict(first.norm1.emb.state_dict())
    return network


@pytest.fixture
def inputs():
    draw = torch.Generator().manual_seed(1)
    steps = torch.tensor([0, 1, 499, 999])
    return torch.randn(4, CHANNELS, SIZE, SIZE, generator=draw), steps, torch.tensor([0, 2, 4, CLASSES])


@torch.no_grad()
def outputs(network, x, k, label):
    """Noise and variance of our network at timesteps k of DDPM, joined as diffusers returns them."""
    found = network.eval()(x, (k + 1) / 1000, label)
    return (
        found.prediction if found.variance is None else torch.cat([found.prediction, found.variance], dim=1)
    )


@pytest.mark.parametrize("norm_eps", [1e-3, 1e-6])
@pytest.mark.parametrize("learned_variance", [True, False])
def test_a_network_of_diffusers_is_read_as_it_computes(tmp_path, inputs, norm_eps, learned_variance):
    network = theirs(norm_eps, learned_variance)
    network.save_pretrained(tmp_path / "transformer")
    found = checkpoints.weights(tmp_path, "diffusers")  # a pipeline's folder, or the network's own
    assert checkpoints.weights(tmp_path / "transformer").found == found.found
    assert (found.input_size, found.channels, found.num_classes) == (SIZE, CHANNELS, CLASSES)
    with torch.no_grad():
        expected = network(inputs[0], timestep=inputs[1], class_labels=inputs[2]).sample
    ours = outputs(found.build(), *inputs)
    assert torch.allclose(ours[:2], expected[:2], atol=2e-5)  # where angles are small
    assert torch.allclose(ours, expected, atol=ROUNDING)
    assert resolve.architecture(found.architecture.name) == found.architecture


def test_a_network_is_written_as_diffusers_reads_it(tmp_path, inputs):
    architecture = resolve.architecture("diffusers_dit[depth=2,width=16,heads=2]")
    network = backbones.build(architecture, input_size=SIZE, channels=CHANNELS, num_classes=CLASSES)
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(0, 0.3)
    diffusers_dit.write(tmp_path, network)
    written = DiTTransformer2DModel.from_pretrained(tmp_path).eval()
    assert written.config.norm_eps == 1e-5 and written.config.attention_head_dim == 8
    with torch.no_grad():
        found = written(inputs[0], timestep=inputs[1], class_labels=inputs[2]).sample
    assert torch.allclose(found, outputs(network, *inputs), atol=ROUNDING)
    again = checkpoints.weights(tmp_path).build().state_dict()
    assert all(torch.equal(again[key], value) for key, value in network.state_dict().items())


def test_its_networks_are_kept_in_our_own_format_as_well(tmp_path):
    architecture = resolve.architecture("diffusers_dit[depth=1,width=16,heads=2,learned_variance=false]")
    network = backbones.build(architecture, input_size=SIZE, channels=1, num_classes=2)
    checkpoints.save(tmp_path / "own.safetensors", network)
    assert checkpoints.load(tmp_path / "own.safetensors").architecture == architecture


def test_dit_itself_is_not_written_since_its_time_is_embedded_otherwise(tmp_path):
    network = backbones.build(backbones.architecture("dit-pico"), input_size=8, channels=1, num_classes=2)
    with pytest.raises(ValueError, match="embeds time with other frequencies"):
        diffusers_dit.write(tmp_path, network)


def test_what_is_not_such_a_network_is_refused(tmp_path):
    network = theirs()
    network.transformer_blocks[1].norm1.emb.class_embedder.embedding_table.weight.data[0, 0] += 1
    network.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="block 1 embeds time and class differently"):
        checkpoints.weights(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for changes, message in (
        ({"activation_fn": "geglu"}, "activation_fn=geglu; only gelu-approximate is read"),
        ({"_class_name": "UNet2DModel"}, "is of the class UNet2DModel"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(ValueError, match=message):
            checkpoints.weights(tmp_path, "diffusers")
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"config\.json, which says what the weights are of"):
        checkpoints.weights(tmp_path, "diffusers")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="name the file of weights itself"):
        checkpoints.weights(tmp_path / "empty")
