"""Parts of a method that are taken from the file of weights that a run starts from."""

from __future__ import annotations

import warnings

from backbones.weights import Weights
from methods.base import Method


def keep_projectors(found: Weights, method: Method) -> None:
    """Copy REPA's projectors from the file into the method, if it has ones of the same shapes; else warn."""
    if not found.projectors:
        return
    state = method.state_dict()
    one = next(iter(found.projectors))
    # A method that is joined with others keeps its projectors one level deeper.
    owner = next((key.removesuffix(one) for key in state if key.endswith(f"projectors.{one}")), "projectors.")
    theirs = {f"{owner}{key}": value for key, value in found.projectors.items()}
    ours = {key: value for key, value in state.items() if key.startswith(owner)}
    if {key: value.shape for key, value in theirs.items()} == {key: v.shape for key, v in ours.items()}:
        method.load_state_dict(state | theirs)
        return
    shapes = " and ".join(f"{value.shape[0]}" for key, value in found.projectors.items() if "4.weight" in key)
    warnings.warn(
        f"the projectors in the file (to {shapes} channels) are not of the method's shapes: "
        f"{'its own start anew' if ours else 'it has none, they are left out'}.",
        stacklevel=2,
    )
