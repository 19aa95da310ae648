"""Parts of VRPO: reward forces, weights of the alignment, and logs."""
