"""Frozen networks: teachers, which give patch tokens, and metric networks, which give a vector per image."""
