"""One thread and one seed for every test, so that a failure on one machine is a failure on the next."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
