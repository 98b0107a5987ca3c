"""One thread for PyTorch: two of them on busy cores spin against each other and take ten times as long."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
