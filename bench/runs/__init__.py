"""A run's folder: its files, its lock, and loading what it holds."""
