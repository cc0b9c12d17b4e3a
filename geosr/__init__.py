"""Guided super-resolution of georeferenced rasters.

`upscale` gives a coarse raster the resolution of a sharp image of the same ground, `evaluate` measures a result against
the truth; importing this package also gives every xarray DataArray `geosr.upscale`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING

from geosr.errors import GeosrError, InputError, OutputError, TileError, UnavailableError, UsageError
from geosr.version import __version__

if TYPE_CHECKING:
    from geosr.accessor import evaluate, upscale

__all__ = [
    "GeosrError",
    "InputError",
    "OutputError",
    "TileError",
    "UnavailableError",
    "UsageError",
    "__version__",
    "evaluate",
    "upscale",
]


def __getattr__(name: str) -> object:
    """Load `upscale` and `evaluate` (xarray, rasterio) when they are first asked for."""
    if name in ("evaluate", "upscale"):
        from geosr import accessor

        return getattr(accessor, name)
    raise AttributeError(f"module 'geosr' has no attribute {name!r}")


class _AccessorHook(MetaPathFinder):
    """Registers `DataArray.geosr` right after xarray is imported.

    Importing xarray here would take half a second that the command line's `--help` has no use for.
    """

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "xarray":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            import_module("geosr.accessor")

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


if "xarray" in sys.modules:
    import_module("geosr.accessor")
else:
    sys.meta_path.insert(0, _AccessorHook())
