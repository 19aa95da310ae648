"""Checks of `bench.check`: a protocol, methods and backbones on the digits, faults, the installation."""
