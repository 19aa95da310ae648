"""Fair comparison of alignment methods: data, training, sampling, evaluation, reports."""

import os

# Before torch is imported: waiting threads spin briefly, then sleep. By default they spin for milliseconds,
# and every small operator waits that long if the machine is shared.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
