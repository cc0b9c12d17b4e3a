"""How an output's values are stored: type, nodata, scale and offset."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geosr.errors import OutputError, UsageError
from geosr.raster import Raster


def rounds(source: Raster, dtype: str) -> bool:
    """Whether an output of type `dtype` loses the fractions that the source has, and has no scale to keep them by."""
    into_integers = np.dtype(source.dtype).kind == "f" and np.dtype(dtype).kind != "f"
    return into_integers and (source.scale, source.offset) == (1.0, 0.0)


@dataclass(frozen=True)
class Encoding:
    """How physical values are stored: `stored = (value - offset) / scale`, invalid pixels as `nodata`."""

    dtype: str
    nodata: float
    scale: float = 1.0
    offset: float = 0.0

    @classmethod
    def choose(cls, source: Raster, dtype: str) -> Encoding:
        """The source's nodata value where it can be kept, else NaN (float) or an end of the range (integer)."""
        info = np.finfo(dtype) if np.dtype(dtype).kind == "f" else np.iinfo(dtype)
        scaled = (source.scale, source.offset) != (1.0, 0.0)
        declared = float("nan") if source.nodata is None else source.nodata
        fits = float(info.min) <= declared <= float(info.max)
        if np.dtype(dtype).kind == "f":
            return cls(dtype, declared if fits and not scaled else float("nan"))
        free = float(info.min if info.min < 0 else info.max)
        return cls(dtype, declared if fits and declared.is_integer() else free, source.scale, source.offset)

    @property
    def rounding(self) -> float:
        """Standard deviation of what rounding to the steps of an integer type moves values by; 0 of a float type."""
        return 0.0 if np.dtype(self.dtype).kind == "f" else abs(self.scale) / 12**0.5

    def beyond(self, values: NDArray[np.float64], valid: NDArray[np.bool_]) -> int:
        """How many valid values an integer type cannot hold: they become the end of its range."""
        if np.dtype(self.dtype).kind == "f":
            return 0
        info, stored = np.iinfo(self.dtype), self._scaled(values[valid])
        return int(((stored < info.min) | (stored > info.max)).sum())

    def on_nodata(self, values: NDArray[np.float64], valid: NDArray[np.bool_]) -> int:
        """How many valid values an integer type would store as nodata: `encode` moves them by a whole step."""
        if np.dtype(self.dtype).kind == "f":
            return 0
        info = np.iinfo(self.dtype)
        return int((np.clip(self._scaled(values[valid]), info.min, info.max) == self.nodata).sum())

    def encode(self, values: NDArray[np.float64], valid: NDArray[np.bool_]) -> NDArray[np.generic]:
        """As stored. A valid value that would read as nodata is moved just clear of it, towards zero."""
        stored, dtype = self._scaled(values), np.dtype(self.dtype)
        if dtype.kind != "f":
            info = np.iinfo(dtype)
            stored = np.clip(stored, info.min, info.max)
        with np.errstate(over="ignore"):
            encoded: NDArray[np.generic] = stored.astype(dtype)
        if not np.isfinite(encoded[valid]).all():
            raise OutputError(f"some values are too large for {self.dtype}")
        encoded[valid & self._reads_as_nodata(encoded)] = self._beside_nodata()
        encoded[~valid] = self.nodata
        return encoded

    def decode(self, stored: NDArray[np.generic]) -> NDArray[np.float64]:
        """The physical values."""
        return stored.astype(np.float64) * self.scale + self.offset

    def check(self, values: NDArray[np.float64]) -> None:
        """See that the source's values fit the type; what a method adds to them may be cut off.

        Raises:
            UsageError: an integer type would cut them off.
        """
        if np.dtype(self.dtype).kind == "f" or not values.size:
            return
        info = np.iinfo(self.dtype)
        low, high = sorted(self._scaled(np.array([values.min(), values.max()])))
        if low < info.min or high > info.max:
            raise UsageError(
                f"source values from {values.min():g} to {values.max():g} do not fit --dtype {self.dtype}; "
                "use a wider one"
            )

    def _scaled(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """As the type would store them if it had no ends."""
        stored: NDArray[np.float64] = (values - self.offset) / self.scale
        return stored if np.dtype(self.dtype).kind == "f" else np.rint(stored)

    def _reads_as_nodata(self, encoded: NDArray[np.generic]) -> NDArray[np.bool_]:
        """Readers compare floats with a tolerance: GDAL with 5e-7 of the value for float32."""
        if np.dtype(self.dtype).kind == "f":
            return np.isclose(encoded.astype(np.float64), self.nodata, rtol=1e-6, atol=0.0)
        return np.asarray(encoded == self.nodata)

    def _beside_nodata(self) -> float:
        if np.dtype(self.dtype).kind == "f":
            return self.nodata * (1 - 2e-6) if self.nodata else float(np.finfo(self.dtype).tiny)
        return self.nodata - 1 if self.nodata > 0 else self.nodata + 1
