"""Guided super-resolution of georeferenced rasters.

`upscale` gives a coarse raster the resolution of a sharp image of the same ground; importing this package
also adds `DataArray.geosr.upscale` to xarray once `geosr.accessor` is loaded, which `upscale` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from geosr.errors import GeosrError, InputError, OutputError, TileError, UnavailableError, UsageError
from geosr.version import __version__

if TYPE_CHECKING:
    from geosr.accessor import upscale

__all__ = [
    "GeosrError",
    "InputError",
    "OutputError",
    "TileError",
    "UnavailableError",
    "UsageError",
    "__version__",
    "upscale",
]


def __getattr__(name: str) -> object:
    """Load `upscale` (xarray, rasterio) when it is first asked for."""
    if name == "upscale":
        from geosr.accessor import upscale

        return upscale
    raise AttributeError(f"module 'geosr' has no attribute {name!r}")
