"""Whether the kernels that were written for the GPU can be used here."""

from __future__ import annotations

from functools import cache
from subprocess import CalledProcessError


@cache
def missing() -> str | None:
    """Why torch's own layers do the work on the GPU; None where the kernels can.

    torch's CUDA builds for Linux bring Triton along, others do not. Before the first kernel Triton compiles its link to
    the driver, for which it needs a C compiler, Python's headers and the driver's library.
    """
    try:
        from triton.runtime import driver

        _ = driver.active.utils
    except ModuleNotFoundError:
        return "Triton is not installed"
    except CalledProcessError as error:
        return f"{error.cmd[0]} fails, perhaps for want of Python's headers"
    except (RuntimeError, AssertionError, ImportError, OSError) as error:
        first, _, _ = str(error).partition("\n")
        return f"Triton says: {first.rstrip('.')}"
    return None


def slowness(device: str) -> str | None:
    """What there is to say of it, in a sentence; None where there is nothing."""
    if device == "cpu" or not (why := missing()):
        return None
    return f"the kernels written for the GPU cannot be used ({why}): the work on it takes several times as long"
