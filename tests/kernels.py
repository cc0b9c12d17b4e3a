"""The compiled kernels' builds, of which each test takes the one that it is asked to."""

import pytest
import torch

from geosr.methods import compiled

EVERY = ["AVX512", "AVX2", "DEFAULT", "torch"]


def use_kernels(build, monkeypatch):
    """Those for such a processor, if this one can run them and a compiler was there; or none, `torch`."""
    here = torch.backends.cpu.get_cpu_capability()
    able = EVERY[EVERY.index(here if here in EVERY else "DEFAULT") :]
    if build not in able:
        pytest.skip(f"this processor is {here}")
    library = None if build == "torch" else compiled.load(build)
    if build != "torch" and library is None:
        pytest.skip("the kernels were not built: no C compiler at installation")
    monkeypatch.setattr(compiled, "library", lambda: library)
