"""All that is global in torch: device, threads, seeds, determinism, out-of-memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch

from geosr.errors import OutOfMemoryError, UnavailableError
from geosr.once import Once

Products = Literal["highest", "high"]

PRODUCTS: Products = "high"
"""How a GPU multiplies float32, as torch names it: `high` is TF32 (ten bits of fraction), summed in float32."""

_DRIVERS_GPUS = Path("/proc/driver/nvidia/gpus")
"""Where NVIDIA's driver for Linux has a folder for each GPU."""

_GPU_FULL = (
    "CUDA error: out of memory",
    "Triton Error [CUDA]: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate",  # CUDA works already when cuBLAS finds no room
)
_FULL = "can't allocate memory", "could not create a primitive"
"""What torch says, too, where memory runs out; the last is oneDNN's, where there is no room for its code."""


def pick_device(name: str) -> str:
    """'cpu' or 'cuda' for one of `options.DEVICES`; `UnavailableError` where it does not exist here."""
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise UnavailableError(
            "no CUDA device is usable by this torch "
            f"({torch.__version__}): install a CUDA build of torch and check the driver, or use --device cpu"
        )
    return "cuda" if has_cuda and name != "cpu" else "cpu"


def idle_gpu() -> str | None:
    """What to say where this machine has a GPU that torch cannot use; None where there is none, or it is hidden."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1", "none", "NoDevFiles")
    if torch.cuda.is_available() or hidden or not _DRIVERS_GPUS.is_dir() or not any(_DRIVERS_GPUS.iterdir()):
        return None
    build = "" if torch.version.cuda else ", which needs a CUDA build of it"
    torch_here = f"the installed torch ({torch.__version__})"
    return f"this machine has an NVIDIA GPU that {torch_here} cannot use{build}: the processor does the work"


def pick_gpus(which: str) -> tuple[str, ...]:
    """What CUDA_VISIBLE_DEVICES is for each of `which`: `all`, or numbers as torch counts them, separated by commas.

    The first of them becomes this process's own, for the fit.

    Raises:
        UnavailableError: torch does not see them, one has no memory left, or they are of different models and would
            give different bits.
    """
    numbers = _numbers(which)
    models = {torch.cuda.get_device_name(number) for number in numbers}
    if len(models) > 1:
        raise UnavailableError(
            f"the GPUs are of different models ({', '.join(sorted(models))}), whose tiles would differ; "
            "name those of one model, as in --gpus 0,1"
        )
    with _told_if_full():
        torch.cuda.set_device(numbers[0])
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return tuple(visible[number] if visible else str(number) for number in numbers)


def _numbers(which: str) -> list[int]:
    """As torch counts them; where it can use none it may still count those that NVIDIA's library sees.

    Raises:
        UnavailableError: torch does not see them.
    """
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    numbers = [*range(seen)] if which == "all" else [int(number) for number in which.split(",")]
    missing = [number for number in numbers if number >= seen]
    if missing or not numbers:
        asked = f"GPU {missing[0]} was" if missing else "GPUs were"
        raise UnavailableError(f"{asked} asked for, and torch ({torch.__version__}) sees {seen}; see nvidia-smi")
    return numbers


@contextmanager
def _told_if_full() -> Iterator[None]:
    """The first call that reaches a GPU needs some of its memory.

    Raises:
        UnavailableError: there is not even that much.
    """
    try:
        yield
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise UnavailableError(
            "a GPU's memory is full and it cannot even be reached: end what holds it (see nvidia-smi), "
            "name others with --gpus, or use --device cpu"
        ) from error


def torch_version() -> str:
    """With its build, as in 2.13.0+cpu."""
    return str(torch.__version__)


def device_kind(device: str) -> str:
    """What of `device` changes bits: the GPU's model, or the instructions that the CPU is used with."""
    if device == "cpu":
        return f"cpu {torch.backends.cpu.get_cpu_capability()}"
    return f"{device} {torch.cuda.get_device_name(device)}"


def free_memory(gpus: str | None) -> int:
    """Bytes that are free now on that of the `gpus` (see `pick_gpus`) with the least; on this process's own when None.

    Raises:
        UnavailableError: torch does not see them, or one has no memory left.
    """
    with _told_if_full():
        numbers = [torch.cuda.current_device()] if gpus is None else _numbers(gpus)
        return min(int(torch.cuda.mem_get_info(number)[0]) for number in numbers)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Run the body with `count` intra-op threads, then restore what was set before.

    With OpenMP builds of torch the number belongs to the calling thread, so that workers in one process may
    each hold their own; the first call in a new thread must come before any tensor work there.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, count))
    try:
        yield
    finally:
        torch.set_num_threads(before)


threads_kept = Once(lambda: torch_threads(torch.get_num_threads()))
"""Its block may run threads that set their own numbers of torch's threads; those that come later find what was before.

The last number that any thread sets is what new ones begin with.
"""


def generator(seed: int) -> torch.Generator:
    """A CPU generator of its own: threads share torch's global one, so nothing in geosr may draw from it."""
    return torch.Generator().manual_seed(seed % 2**63)


def out_of_memory(error: BaseException | None) -> bool:
    """Whether that is torch, CUDA, cuBLAS or Triton saying that a GPU's memory is full."""
    words_of_one = isinstance(error, RuntimeError) and any(words in str(error) for words in _GPU_FULL)
    return words_of_one or isinstance(error, torch.OutOfMemoryError)


@contextmanager
def memory_told(device: str) -> Iterator[None]:
    """Translate what torch raises where memory runs out.

    Raises:
        OutOfMemoryError: in the block memory ran out, of the processor or of `device`.
    """
    try:
        yield
    except RuntimeError as error:
        if out_of_memory(error):
            raise OutOfMemoryError(
                f"the {device} ran out of memory on one tile; use fewer workers, a smaller tile or --device cpu"
            ) from error
        if not any(words in str(error) for words in _FULL):
            raise
        raise OutOfMemoryError("out of memory on one tile; use fewer workers or a smaller tile") from error


@contextmanager
def deterministic(device: str) -> Iterator[None]:
    """Ask CUDA for kernels that give the same bits each time, and tell of memory as `memory_told`.

    cuBLAS gives the same bits only with workspaces of a fixed size, which must be said before its first product;
    without that torch warns of every product. Products and convolutions of float32 take TF32 (`PRODUCTS`).
    On the CPU nothing is set: what geosr calls there is deterministic for one number of threads. The setting
    is the process's own; tiles that share a GPU all ask for the same, so it is never switched back.
    """
    if device == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.allow_tf32 = PRODUCTS != "highest"
        torch.set_float32_matmul_precision(PRODUCTS)
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # all is written
    with memory_told(device):
        yield
