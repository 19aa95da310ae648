"""Parts that several methods share: distances, projectors, the alignment with an encoder."""
