"""Diffusion without networks: paths from data to noise, training objectives, guidance and samplers."""
