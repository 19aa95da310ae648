from itertools import permutations

import pytest
import torch
import torch.nn.functional as F

from bench.metrics import representation


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def hsic_by_enumeration(k: torch.Tensor, other: torch.Tensor) -> float:
    """The U-statistic of HSIC: the mean over all ordered quadruples of different images."""
    terms = [
        k[i, j] * (other[i, j] + other[q, r] - 2 * other[i, q])
        for i, j, q, r in permutations(range(len(k)), 4)
    ]
    return (sum(terms) / len(terms)).item()


def test_cka_matches_the_enumeration_of_its_definition():
    a, b = normal(7, 3), normal(7, 4, seed=1)
    k, other = (F.normalize(x, dim=1) @ F.normalize(x, dim=1).T for x in (a, b))
    cross, own = hsic_by_enumeration(k, other), hsic_by_enumeration(k, k) * hsic_by_enumeration(other, other)
    assert representation.cka(a, b) == pytest.approx(cross / own**0.5, rel=1e-9)


@pytest.mark.parametrize("measure", [representation.cka, representation.cknna])
def test_alignment_is_one_for_rotations_and_none_for_strangers(measure):
    a = normal(300, 8)
    rotation, _ = torch.linalg.qr(normal(8, 8, seed=1))
    assert measure(a, 3 * a @ rotation) == pytest.approx(1, abs=1e-9)
    assert abs(measure(a, normal(300, 8, seed=2))) < 0.1
    half_related = a + 0.7 * normal(300, 8, seed=3)
    assert 0.1 < measure(a, half_related) < 0.9
    assert measure(a, half_related) == pytest.approx(measure(half_related, a), rel=1e-3)


def test_cknna_with_all_neighbours_is_cka():
    a, b = normal(40, 5), normal(40, 5) + normal(40, 5, seed=1)
    assert representation.cknna(a, b, neighbours=39) == pytest.approx(representation.cka(a, b), rel=1e-9)


def test_cknna_sees_common_neighbourhoods_only():
    clusters = torch.arange(200) % 20
    a = F.one_hot(clusters).double() + 0.05 * normal(200, 20)
    shuffled = F.one_hot((clusters * 7 + 3) % 20).double() + 0.05 * normal(200, 20, seed=1)
    assert representation.cknna(a, shuffled, neighbours=9) > 0.8  # the same clusters under other names


def test_a_linear_probe_reads_what_is_linear_and_nothing_else():
    labels = torch.arange(400) % 4
    readable = F.one_hot(labels).double() @ normal(4, 10) + 0.05 * normal(400, 10, seed=1)
    assert representation.linear_probe(readable, labels) == 1.0
    assert representation.linear_probe(normal(400, 10, seed=2), labels) == pytest.approx(0.25, abs=0.12)


def test_token_cosine_is_one_where_a_linear_map_gives_the_teacher():
    tokens = normal(40, 9, 6)
    teacher = tokens @ normal(6, 3, seed=1) + 2.0
    assert representation.token_cosine(tokens, teacher) == pytest.approx(1, abs=1e-4)
    assert abs(representation.token_cosine(tokens, normal(40, 9, 30, seed=2))) < 0.1


def test_local_minus_distant_similarity_of_constructed_tokens():
    alike = torch.ones(2, 16, 5)
    assert representation.local_vs_distant(alike, (4, 4)) == pytest.approx(0, abs=1e-12)
    rows = F.one_hot(torch.arange(16) // 4).double().expand(2, 16, 4)  # tokens of one row are equal
    # Of 24 adjacent pairs, 12 lie in a row; of the 192 ordered pairs at distance >= 2, 4 * 6 do.
    assert representation.local_vs_distant(rows, (4, 4)) == pytest.approx(12 / 24 - 24 / 192, rel=1e-9)


def test_effective_rank_counts_directions():
    basis, _ = torch.linalg.qr(normal(50, 6) - normal(50, 6).mean(dim=0))
    assert representation.effective_rank(basis) == pytest.approx(6, abs=0.05)
    assert representation.effective_rank(normal(50, 1) @ normal(1, 6)) == pytest.approx(1, abs=1e-9)
