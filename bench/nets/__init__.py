"""Frozen networks: teachers, which give tokens to training, and metric networks, which give one vector."""
