"""No alignment: the diffusion loss alone (SiT, arXiv 2401.08740; DiT, arXiv 2212.09748)."""

from methods.base import Method


class Baseline(Method):
    """No loss terms, no encoder, no captured hidden states."""
