"""What all tests share: one thread for PyTorch, and examples that depend on no clock and no chance.

Two threads of PyTorch's on busy cores spin against each other and take ten times as long.
"""

import os

from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")

# On a busy machine examples take long to make and to try, which says nothing about them; and what fails, fails again.
settings.register_profile(
    "geoshift", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("geoshift")
