"""Checks of methods and backbones on the embedded digits, of the installation, and of faults."""
