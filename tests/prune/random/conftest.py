"""The generator of random networks, for the tests of this folder."""

from types import SimpleNamespace

import pytest

from tests.prune.random import checking, networks


@pytest.fixture(scope="session")
def generator() -> SimpleNamespace:
    """Cases, how to check them, and the names that programs are made of."""
    return SimpleNamespace(Case=checking.Case, check=checking.check, networks=networks)
