"""Parts of VRPO, in the order of its formulation.

reward.py       the reward term: its options, schedule and estimators
forces.py       forces of rewards on the estimate of the clean image
alignment.py    the alignment, its gate and its controls
weighting.py    weights of the alignment per sample
logs.py         diagnostics
"""
