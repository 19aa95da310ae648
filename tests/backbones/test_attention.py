"""What is recorded of the attention, put in its place or masked, against plain softmax attention."""

import pytest
import torch

import backbones

BLOCK = 2


@pytest.fixture(params=[{}, {"qk_norm": True}], ids=str)
def network(request):
    """No weight is zero, so that every part shows in the prediction."""
    found = backbones.build(
        backbones.architecture("sit-pico", **request.param), input_size=8, channels=1, num_classes=3
    )
    draw = torch.Generator().manual_seed(0)
    for parameter in found.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=draw)
    return found.eval()


DRAW = torch.Generator().manual_seed(1)
X_T, T, LABEL = torch.randn(3, 1, 8, 8, generator=DRAW), torch.tensor([0.2, 0.5, 0.9]), torch.arange(3)


@torch.no_grad()
def called(network, t=T, **asked):
    """The output, and what went into and came out of the attention of one block."""
    attention, seen = network.blocks[BLOCK - 1].attn, {}
    hooks = [
        attention.qkv.register_forward_hook(lambda _, inputs, out: seen.update(qkv=out)),
        attention.proj.register_forward_hook(lambda _, inputs, out: seen.update(attended=out)),
    ]
    output = network(X_T, t, LABEL, hidden_depths=(1, 2), **asked)
    for hook in hooks:
        hook.remove()
    return output, seen


def heads_of(network, seen):
    """Queries (scaled), keys and values [B, heads, N, D / heads], from the rows of the joint matrix."""
    attention = network.blocks[BLOCK - 1].attn
    batch, tokens, _ = seen["qkv"].shape
    parts = seen["qkv"].view(batch, tokens, 3, attention.num_heads, -1)
    q, k, v = (parts[:, :, part].transpose(1, 2) for part in range(3))
    return attention.q_norm(q) * q.shape[-1] ** -0.5, attention.k_norm(k), v


def plain(network, q, k, v, mask=None):
    """softmax(q k^T) v and the output map, by the definition."""
    logits = torch.einsum("bhnd,bhmd->bhnm", q, k)
    if mask is not None:
        logits = logits.masked_fill(~mask[:, None], -torch.inf)
    mixed = torch.einsum("bhnm,bhmd->bhnd", logits.softmax(dim=-1), v)
    return network.blocks[BLOCK - 1].attn.proj(mixed.transpose(1, 2).flatten(2))


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_logits_keys_and_values_are_those_of_the_attention(network):
    output, seen = called(network, attention_depths=(BLOCK,), keys_values_depths=(BLOCK,))
    q, k, v = heads_of(network, seen)
    close(output.attention[BLOCK], torch.einsum("bhnd,bhmd->bhnm", q, k))
    close(output.keys_values[BLOCK][0], k)
    close(output.keys_values[BLOCK][1], v)
    close(seen["attended"], plain(network, q, k, v))
    assert list(output.attention) == list(output.keys_values) == [BLOCK]


@torch.no_grad()
def test_recording_and_what_is_a_matter_of_course_change_no_bit(network):
    expected, _ = called(network)
    looked, _ = called(network, attention_depths=(1, 2), keys_values_depths=(1, 2))
    cases = {
        "recorded": looked,
        "own keys and values": called(network, replace={BLOCK: looked.keys_values[BLOCK]})[0],
        "all attend to all": called(network, mask=torch.ones(3, 16, 16, dtype=torch.bool))[0],
        "one time": called(network, T[:, None], group=torch.zeros(3, 16, dtype=torch.long))[0],
    }
    for name, found in cases.items():
        assert torch.equal(found.prediction, expected.prediction), name
        assert torch.equal(found.hidden[2], expected.hidden[2]), name


@torch.no_grad()
def test_keys_and_values_of_another_are_attended_to(network):
    keys, values = (torch.randn(3, 2, 16, 16, generator=DRAW) for _ in range(2))
    output, seen = called(network, replace={BLOCK: (keys, values)}, keys_values_depths=(BLOCK,))
    q, k, v = heads_of(network, seen)
    close(seen["attended"], plain(network, q, keys, values))
    close(output.keys_values[BLOCK][0], k)  # what is recorded is the block's own
    close(output.keys_values[BLOCK][1], v)


@torch.no_grad()
def test_rows_of_a_mask_are_the_tokens_that_attend(network):
    mask = torch.rand(3, 16, 16, generator=DRAW) < 0.4
    mask |= torch.eye(16, dtype=torch.bool)
    _, seen = called(network, mask=mask)
    close(seen["attended"], plain(network, *heads_of(network, seen), mask))


@torch.no_grad()
def test_tokens_of_two_times_that_do_not_meet_are_those_of_two_passes(network):
    group = (torch.rand(3, 16, generator=DRAW) < 0.5).long()
    mask, times = group[:, :, None] == group[:, None], torch.stack([T, 1 - T], dim=1)
    both, _ = called(network, times, group=group, mask=mask)
    for number in range(2):
        alone, _ = called(network, times[:, number], mask=mask)
        close(both.hidden[2][group == number], alone.hidden[2][group == number])
