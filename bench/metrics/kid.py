"""Kernel distance: the squared maximum mean discrepancy under (x.y / D + 1)^3 (Binkowski et al. 2018).

Unlike the Frechet distance it is unbiased for any number of samples. For Inception features it is the KID.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor


def kernel_distance(samples: Tensor, reference: Tensor, seed: int = 0) -> float:
    """The mean over 100 random subsets of at most 1,000 features of [N, D] and [M, D], as in clean-fid."""
    from cleanfid.fid import kernel_distance as mean_over_subsets

    before = np.random.get_state()  # clean-fid draws from numpy's global generator
    np.random.seed(seed)
    try:
        return mean_over_subsets(samples.cpu().numpy(), reference.cpu().numpy())
    finally:
        np.random.set_state(before)
