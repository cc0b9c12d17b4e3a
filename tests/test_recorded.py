"""What a recording that fails leaves behind; torch's parts that need a GPU are stood in for as they are written."""

import gc
import weakref
from functools import partial

import pytest
import torch

from geosr.methods.recorded import Recorded

AcceleratorError = getattr(torch, "AcceleratorError", RuntimeError)  # new in torch 2.8

FULL = [
    (torch.OutOfMemoryError, "CUDA out of memory. Tried to allocate 144.00 MiB."),
    (AcceleratorError, "CUDA error: out of memory"),
    (RuntimeError, "Triton Error [CUDA]: out of memory"),
]


class Stream:
    def wait_stream(self, other):
        pass


class Thread:
    """The calling thread's stream."""

    def __init__(self):
        self.stream = Stream()


class On:
    """As `torch.cuda.stream`."""

    def __init__(self, thread, stream):
        self.thread, self.stream = thread, stream

    def __enter__(self):
        self.before, self.thread.stream = self.thread.stream, self.stream

    def __exit__(self, *args):
        self.thread.stream = self.before


@pytest.fixture
def thread(monkeypatch):
    """A recording in which something failed cannot be ended either; then `torch.cuda.graph` keeps its stream."""
    here = Thread()

    class Graph:
        def __init__(self, graph, stream, capture_error_mode):
            self.stream_ctx = On(here, stream)

        def __enter__(self):
            self.stream_ctx.__enter__()

        def __exit__(self, *args):
            if args[0]:
                raise AcceleratorError("CUDA error: operation failed due to a previous error during capture")
            self.stream_ctx.__exit__(*args)

    stands = {"Stream": Stream, "CUDAGraph": object, "graph": Graph, "stream": partial(On, here)}
    for name, stand in (stands | {"current_stream": lambda: here.stream}).items():
        monkeypatch.setattr(torch.cuda, name, stand)
    return here


def record(work):
    """Record work that could be done three times as it is."""
    recorded = Recorded("cuda")
    for _ in range(3):
        recorded(lambda: torch.zeros(1))
    recorded(work)


def failing(kind, text, made):
    """Work that makes a tensor, and fails."""

    def work():
        tensor = torch.zeros(1)
        made.append(weakref.ref(tensor))
        raise kind(text)

    return work


@pytest.mark.parametrize(("kind", "text"), FULL, ids=str)
def test_want_of_memory_in_a_recording_is_told_and_nothing_of_it_is_kept(kind, text, thread):
    made, before = [], thread.stream
    gc.disable()
    try:
        with pytest.raises(torch.OutOfMemoryError, match="out of memory") as found:
            record(failing(kind, text, made))
        assert made[0]() is None
    finally:
        gc.enable()
    assert found.value.__context__ is None
    assert thread.stream is before


def test_what_else_breaks_a_recording_is_raised_with_its_cause(thread):
    before = thread.stream
    with pytest.raises(AcceleratorError, match="previous error during capture") as found:
        record(failing(RuntimeError, "CUDA error: an illegal memory access was encountered", []))
    assert "illegal" in str(found.value.__context__)
    assert thread.stream is before
