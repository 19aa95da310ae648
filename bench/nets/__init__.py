"""Frozen networks: teachers give patch tokens, metric networks a vector an image, rewards a number or map."""
