"""One host for all tests: they share nothing but its records, and each uses users of its own."""

import os

import pytest

from host import Host

# The host is on this machine; a proxy of the environment's is not asked for it.
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"


@pytest.fixture(scope="session")
def host():
    with Host() as running:
        yield running
