import pytest

from runtime.plan import bundle as bundles
from runtime.simulation import Stage
from tests.runtime.bundles import profile, write_bundle


@pytest.fixture(scope="session")
def plan(tmp_path_factory):
    return bundles.read(write_bundle(tmp_path_factory.mktemp("simulation") / "plan", profile()))


@pytest.fixture(scope="session")
def stage(plan):
    return Stage.of(plan)
