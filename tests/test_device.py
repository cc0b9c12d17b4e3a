"""What becomes of what torch says of a GPU, which here is said in its place."""

import pytest
import torch

from geosr.device import free_memory, memory_told, pick_gpus
from geosr.errors import OutOfMemoryError, UnavailableError

FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 144.00 MiB."),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
]


@pytest.mark.parametrize("error", FULL, ids=str)
def test_however_a_full_gpu_is_told_it_is_want_of_memory(error):
    with pytest.raises(OutOfMemoryError, match="the cuda ran out of memory on one tile"), memory_told("cuda"):
        raise error


def test_other_faults_of_a_gpu_stay_what_they_are():
    with pytest.raises(RuntimeError, match="illegal memory access") as found, memory_told("cuda"):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    assert not isinstance(found.value, OutOfMemoryError)


@pytest.fixture
def cards(monkeypatch):
    """Three cards of one model in torch's place, with this much free memory each; how much may be changed."""
    free = [30, 10, 20]
    stands = {
        "is_available": lambda: True,
        "device_count": lambda: len(free),
        "current_device": lambda: 0,
        "get_device_name": lambda number: "NVIDIA H200",
        "set_device": lambda number: reach(number),
        "mem_get_info": lambda number: (reach(number), 40),
    }

    def reach(number):
        if not free[number]:
            raise RuntimeError("CUDA error: out of memory")
        return free[number]

    for name, stand in stands.items():
        monkeypatch.setattr(torch.cuda, name, stand)
    return free


def test_cards_that_only_the_driver_sees_are_not_there(cards, monkeypatch):
    """Where the driver is too old, NVIDIA's library counts them all the same."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for which in ("all", "0"):
        with pytest.raises(UnavailableError, match=r"asked for, and torch .* sees 0"):
            pick_gpus(which)


def test_a_batch_is_planned_for_the_card_with_the_least_free_memory(cards):
    assert [free_memory(which) for which in (None, "all", "0,2", "1")] == [30, 10, 20, 10]


def test_a_card_without_room_to_reach_it_is_told_as_unavailable(cards):
    cards[0] = 0
    for reach in (lambda: pick_gpus("all"), lambda: free_memory(None), lambda: free_memory("1,0")):
        with pytest.raises(UnavailableError, match="memory is full"):
            reach()
