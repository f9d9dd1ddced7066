"""One host for all tests. They share only its records, and each test has its own users."""

import os

import pytest

from host import Host

# The host is on this machine, so a proxy in the environment must not be used.
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"


@pytest.fixture(scope="session")
def host():
    with Host() as running:
        yield running
