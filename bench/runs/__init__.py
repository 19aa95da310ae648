"""Folders of runs: files, lock, loading."""
