"""Faults against the commands: whatever happens to one, it is completed later, and no number changes.

Every case starts from a fresh copy of a small folder, is disturbed, and then runs undisturbed. The numbers
must be those of a run that was never disturbed, and whatever ends a command in between must be one line,
without a traceback.
"""
