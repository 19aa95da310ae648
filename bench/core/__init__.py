"""Shared by all parts of the suite and knowing none of them: errors, names, files, machine, processes."""
