"""What all tests share."""

import os
import signal

import pytest

from geosr.methods.classic import Interpolation

# Triton reads it when it is first imported. On a machine with a card, TRITON_INTERPRET=0 runs the kernels there.
os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """The arrays are small: with more threads on a busy machine, waiting costs ten times the work."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _hang_ups_are_heard():
    """A suite started with nohup must not hand its deafness on to the processes that tests hang up."""
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def guided_bicubic(monkeypatch):
    """`bicubic` reads the guide as if it used it: what becomes of a guide, without a fit."""
    method = Interpolation("bicubic", 2, uses_guide=True)
    monkeypatch.setattr("geosr.methods.classic.create_bicubic", lambda preset, settings: method)
