"""Checks of what anyone may add: a method or a backbone, tried on the embedded digits."""
