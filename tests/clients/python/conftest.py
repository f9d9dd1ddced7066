"""One host for all tests: they share nothing but its records, and each uses users of its own."""

import pytest

from host import Host


@pytest.fixture(scope="session")
def host():
    with Host() as running:
        yield running
