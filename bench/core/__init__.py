"""Foundations of the suite: errors, names, files, machine, processes. Imports no other part of it."""
