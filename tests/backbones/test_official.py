"""Our networks compute what the official ones compute; `official_forward` is the second implementation."""

import math
import re
from dataclasses import replace

import pytest
import torch

import backbones
from backbones.blocks import position_table
from backbones.transformer import SiTArchitecture
from tests.helpers import official_forward

CLASSES, CHANNELS = 10, 4
# Name, input size: all patches, a square of one token up to 16 x 16, and one official size.
NETWORKS = [("ti/2", 8), ("ti/2", 32), ("ti/4", 16), ("ti/8", 32), ("ti/8", 8), ("ti/1", 8), ("s/2", 16)]
TINY = SiTArchitecture(size="ti", patch=2, depth=2, width=8, heads=2)


def random_pair(name, input_size, **options):
    """One of our networks, and the official state dict of random values that it was given."""
    architecture = backbones.architecture(name, **options)
    shapes = official_forward.shapes(
        architecture.depth,
        architecture.width,
        patch=architecture.patch,
        input_size=input_size,
        channels=CHANNELS,
        classes=CLASSES,
        variance=architecture.learned_variance,
    )
    state = official_forward.random_state(shapes)
    network = backbones.build(
        architecture, input_size=input_size, channels=CHANNELS, num_classes=CLASSES
    ).eval()
    network.load_state_dict(state)
    return network, state


def random_input(input_size, batch=5):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, CHANNELS, input_size, input_size, generator=generator)
    return x, torch.rand(batch, generator=generator), torch.tensor([0, CLASSES, 3, CLASSES - 1, CLASSES])


def relative_difference(ours, official):
    """The largest difference over the largest value; never by values near zero."""
    assert official.std() > 0.1  # a comparison of nothing with nothing would pass
    return ((ours - official).abs().max() / official.abs().max()).item()


@torch.no_grad()
@pytest.mark.parametrize(("name", "input_size"), NETWORKS)
def test_dit_is_the_official_function_of_integer_timesteps(name, input_size):
    network, state = random_pair(f"dit-{name}", input_size)
    x, _, label = random_input(input_size)
    timestep = torch.tensor([0, 1, 500, 998, 999])
    output = network(x, (timestep + 1) / 1000, label)
    noise, variance = official_forward.dit(state, x, timestep, label, network.architecture.heads)
    assert relative_difference(output.prediction, noise) < 1e-5
    assert relative_difference(output.variance, variance) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize(("name", "input_size"), NETWORKS)
def test_sit_is_the_function_of_repa(name, input_size):
    network, state = random_pair(f"sit-{name}", input_size)
    x, t, label = random_input(input_size)
    output = network(x, t, label)
    official = official_forward.repa(state, x, t, label, network.architecture.heads)
    assert output.variance is None
    assert relative_difference(output.prediction, official) < 1e-5


@torch.no_grad()
def test_sit_with_variance_channels_predicts_with_the_first_half():
    network, state = random_pair("sit-ti/2", 8, learned_variance=True)
    x, t, label = random_input(8)
    official = official_forward.sit(state, x, t, label, network.architecture.heads)
    assert relative_difference(network(x, t, label).prediction, official) < 1e-5


@torch.no_grad()
def test_norms_have_the_official_epsilon():
    """Seen on faint tokens only: with a variance near 1e-6, and gates that keep them so."""
    network, state = random_pair("sit-ti/2", 8)
    for key in state:
        if key == "pos_embed" or key.startswith("x_embedder") or re.match(r"blocks.*adaLN", key):
            state[key] *= 1e-3
    network.load_state_dict(state)
    x, t, label = random_input(8)
    official = official_forward.repa(state, x, t, label, network.architecture.heads)
    assert relative_difference(network(x, t, label).prediction, official) < 1e-5


def test_every_ddpm_timestep_is_recovered_from_t():
    network = backbones.build(backbones.architecture("dit-ti"), input_size=4, channels=1, num_classes=1)
    timesteps = torch.arange(1000)
    for dtype in (torch.float32, torch.float64):
        t = ((timesteps + 1) / 1000).to(dtype)
        assert torch.equal(network.network_time(t).long(), timesteps)


@pytest.mark.parametrize(("width", "side"), [(96, 4), (384, 16), (1152, 16), (1024, 4)])
def test_position_table_entry_by_entry(width, side):
    """Row-major tokens; half the channels for the column, half for the row; sines, then cosines, of each."""
    table = position_table(width, side)
    assert table.shape == (1, side * side, width)
    quarter = width // 4
    for row, column in [(0, 0), (0, side - 1), (side - 1, 0), (1, 2), (side - 1, side - 2)]:
        frequencies = [10000 ** (-i / quarter) for i in range(quarter)]
        angles = [[place * frequency for frequency in frequencies] for place in (column, row)]
        expected = [wave(angle) for half in angles for wave in (math.sin, math.cos) for angle in half]
        token = table[0, row * side + column]
        torch.testing.assert_close(token, torch.tensor(expected), rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", ["sit-s/2", "dit-s/4"])
def test_initialisation_has_the_official_statistics(name):
    torch.manual_seed(0)
    network = backbones.build(backbones.architecture(name), input_size=32, channels=4, num_classes=1000)
    table = position_table(network.architecture.width, network.side)
    for key, value in network.state_dict().items():
        if key == "pos_embed":
            assert torch.equal(value, table)
        elif key.endswith("bias") or "adaLN_modulation" in key or key == "final_layer.linear.weight":
            assert not value.any(), key
        elif key.startswith(("t_embedder", "y_embedder")):
            assert abs(value.mean()) < 1e-3, key
            assert value.std().item() == pytest.approx(0.02, rel=0.02), key
            assert value.abs().max() > 0.06, key  # normal, not uniform of the same spread
        else:  # xavier: uniform in +-sqrt(6 / (fan in + fan out)), patches as the linear map that they are
            fan_in, fan_out = value[0].numel(), value.shape[0]
            bound = math.sqrt(6 / (fan_in + fan_out))
            assert value.abs().max() <= bound, key
            assert value.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03), key


def test_position_table_is_not_trained_and_all_else_is():
    network = backbones.build(backbones.architecture("sit-ti"), input_size=8, channels=1, num_classes=2)
    assert [key for key, value in network.named_parameters() if not value.requires_grad] == ["pos_embed"]


@torch.no_grad()
def test_hidden_states_are_those_after_each_block_counted_from_one():
    """The official network cut after block d ends, but for its final layer, in the hidden state d."""
    network, state = random_pair("sit-ti/2", 8)
    x, t, label = random_input(8)
    depths = (1, 2, network.architecture.depth)
    hidden = network(x, t, label, hidden_depths=depths).hidden
    assert tuple(hidden) == depths
    condition = network.t_embedder(t) + network.y_embedder(label)
    for depth in depths:
        cut = {key: value for key, value in state.items() if not re.match(rf"blocks\.[{depth}-9]\.", key)}
        official = official_forward.repa(cut, x, t, label, network.architecture.heads)
        ours = network.unpatchify(network.final_layer(hidden[depth], condition))
        assert relative_difference(ours, official) < 1e-5


@pytest.mark.parametrize(
    "options", [{}, {"qk_norm": True}, {"rope": True}, {"rms_norm": True, "swiglu": True}], ids=str
)
def test_gradients_through_hidden_states_are_those_of_finite_differences(options):
    torch.manual_seed(0)
    network = backbones.build(replace(TINY, **options), input_size=4, channels=1, num_classes=2).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    t = torch.rand(2, dtype=torch.float64, requires_grad=True)
    weights = [network.blocks[0].attn.qkv.weight, network.blocks[1].adaLN_modulation[1].bias]

    def outputs(x, t, *_):
        output = network(x, t, torch.tensor([0, 2]), hidden_depths=(1, 2))
        # One tensor: of several, gradcheck would pass over a detached one.
        return torch.cat([output.prediction.flatten(), *(h.flatten() for h in output.hidden.values())])

    assert torch.autograd.gradcheck(outputs, (x, t, *weights), fast_mode=True)


def departed(option):
    """Official weights, their network and one with `option`."""
    original, state = random_pair("sit-ti/2", 8)
    architecture = backbones.architecture("sit-ti/2", **{option: True})
    assert architecture != original.architecture
    changed = backbones.build(architecture, input_size=8, channels=CHANNELS, num_classes=CLASSES)
    return state, original, changed.eval()


@torch.no_grad()
@pytest.mark.parametrize("option", ["qk_norm", "rms_norm", "rope"])
def test_departures_compute_another_function_of_the_same_weights(option):
    state, original, changed = departed(option)
    changed.load_state_dict(state, strict=False)
    x, t, label = random_input(8)
    assert relative_difference(changed(x, t, label).prediction, original(x, t, label).prediction) > 1e-2


@pytest.mark.parametrize("option", ["qk_norm", "swiglu"])
def test_departures_with_parameters_refuse_official_weights(option):
    state, _, changed = departed(option)
    with pytest.raises(RuntimeError, match="Missing key"):
        changed.load_state_dict(state)
