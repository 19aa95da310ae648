"""From weights to a row of scores: sampling, scoring against reference images, probing."""
