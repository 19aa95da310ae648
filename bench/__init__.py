"""The fair comparison: everything around the methods and backbones."""

import os

# Before torch is imported: threads that wait for one another spin briefly, then sleep. By default they spin
# for milliseconds, and on a machine that does anything else beside, every small operator waits that long.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
