"""Training images: data sets by name, stores of prepared images or latents, and how stores are made."""
