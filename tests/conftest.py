"""What all tests share."""

import pytest


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """The arrays are small: with more threads on a busy machine, waiting costs ten times the work."""
    import torch

    torch.set_num_threads(1)
