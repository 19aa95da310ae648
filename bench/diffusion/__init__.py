"""Mathematics of diffusion: paths from data to noise, training objectives, guidance and samplers."""
