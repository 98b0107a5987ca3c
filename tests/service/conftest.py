"""The small bundle, written once."""

import pytest

from tests.runtime.bundles import write_bundle


@pytest.fixture(scope="session")
def plan(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("service") / "plan")
