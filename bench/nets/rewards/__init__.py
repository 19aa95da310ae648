"""Rewards of a clean-image estimate, by name: fidelity, features of a network, LPIPS, CLIP, a student."""
