"""What becomes of what torch says of a GPU, which here is said in its place."""

import pytest
import torch

from geosr.device import memory_told
from geosr.errors import OutOfMemoryError

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
