"""Brightness temperature from the digital numbers of Landsat 8 and 9's thermal bands.

Formulas and constants are those of the Landsat 8 Data Users Handbook (USGS LSDS-1574), section 5: radiance
L = ML * DN + AL in W/(m2 sr um), temperature at the sensor T = K2 / ln(K1 / L + 1) in kelvin. It is corrected neither
for the atmosphere nor for the emissivity of the ground.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from geosr import raster
from geosr.consistency import pool_measured
from geosr.describe import describe_source, pixels_of, pooled_text
from geosr.errors import InputError, UsageError
from geosr.geotiff import write_strips
from geosr.grid import Window, pool_grid
from geosr.publish import check_output
from geosr.raster import Raster
from geosr.raster_guard import show
from geosr.units import KELVINS, ZERO_CELSIUS

_ROWS = 512  # about how many are converted at once
_MAX_MTL = 1 << 20  # bytes; real ones have some 10 000


@dataclass(frozen=True)
class Calibration:
    """A thermal band's constants, by their names in the MTL file.

    Attributes:
        band: 10 or 11.
        mult, add: RADIANCE_MULT and RADIANCE_ADD, W/(m2 sr um) for each digital number, and at 0.
        k1: W/(m2 sr um).
        k2: kelvin.
        least: the smallest digital number that is a measurement; 0 is fill.
        most: the largest that can be stored, infinite where the file does not say: a pixel that has it is saturated.
    """

    band: int
    mult: float
    add: float
    k1: float
    k2: float
    least: float
    most: float

    def radiance(self, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        """Radiance at the sensor, W/(m2 sr um)."""
        return self.mult * numbers + self.add

    def temperature(self, radiance: NDArray[np.float64]) -> NDArray[np.float64]:
        """Brightness temperature in kelvin; NaN where the radiance is not positive."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(radiance > 0, self.k2 / np.log(self.k1 / radiance + 1), np.nan)


def read_calibration(mtl: Path, band: int) -> Calibration:
    """The constants of a band from the MTL file of its scene, of Collection 1 or 2.

    Raises:
        InputError: it cannot be read, is of another satellite or of Level 2, or lacks a constant.
    """
    try:
        with mtl.open(encoding="ascii", errors="replace") as file:
            text = file.read(_MAX_MTL)
    except OSError as error:
        raise InputError(f"{show(mtl)}: cannot be read: {error.strerror or error}") from error
    values = dict(
        reversed(re.findall(r'^\s*(\w+)\s*=\s*"?([^"\n]*?)"?\s*$', text, re.MULTILINE))
    )  # the first one holds
    satellite = values.get("SPACECRAFT_ID", "")
    if satellite not in ("LANDSAT_8", "LANDSAT_9"):
        named = f"is of {show(satellite, 40)}" if satellite else "names no SPACECRAFT_ID"
        raise InputError(f"{show(mtl)}: {named}; the MTL.txt file of a Landsat 8 or 9 scene is needed")
    if (level := values.get("PROCESSING_LEVEL", "")).startswith("L2"):
        raise InputError(f"{show(mtl)}: is of Level 2 ({show(level, 40)}), whose band is surface temperature already")
    names = ("RADIANCE_MULT", "RADIANCE_ADD", "K1_CONSTANT", "K2_CONSTANT", "QUANTIZE_CAL_MIN")
    found = [_number(values.get(f"{name}_BAND_{band}")) for name in names]
    if missing := [f"{name}_BAND_{band}" for name, value in zip(names, found, strict=True) if not np.isfinite(value)]:
        raise InputError(f"{show(mtl)}: has no number as {', '.join(missing)}")
    mult, add, k1, k2, least = found
    most = _number(values.get(f"QUANTIZE_CAL_MAX_BAND_{band}"))
    return Calibration(band, mult, add, k1, k2, least, most if np.isfinite(most) else np.inf)


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")


def find_band(path: Path) -> int:
    """10 or 11 from a file's name, as in `..._B10.TIF` or `..._band10.tif`.

    Raises:
        UsageError: it does not say.
    """
    named = _named_bands(path) & {10, 11}
    if len(named) != 1:
        raise UsageError(f"{show(path.name)} does not tell whether it is band 10 or 11; say --thermal-band")
    return named.pop()


def _named_bands(path: Path) -> set[int]:
    """The bands that a file's name tells of."""
    return {int(number) for number in re.findall(r"(?:_B|band)(\d{1,2})(?!\d)", path.name, re.IGNORECASE)}


def _check_band(path: Path, band: int) -> int:
    """A band that was asked for, if the file's name does not tell of others only."""
    if (named := _named_bands(path)) and band not in named:
        others = ", ".join(map(str, sorted(named)))
        raise UsageError(f"{show(path.name)} is band {others} by its name, and --thermal-band says {band}")
    return band


def to_temperature(
    source: Path,
    mtl: Path,
    output: Path,
    *,
    band: int | None = None,
    celsius: bool = False,
    native_resolution: float | None = None,
    overwrite: bool = False,
) -> tuple[str, ...]:
    """Write the brightness temperature of a Landsat thermal band as GeoTIFF: float32, NaN where there is none.

    Invalid are the file's invalid pixels, its fill, below the smallest number of a measurement, and saturated pixels.

    Args:
        source: digital numbers of Level 1.
        mtl: the scene's MTL file.
        output: the GeoTIFF to write.
        band: 10 or 11; as the file's name says when None.
        celsius: degrees Celsius in place of kelvin.
        native_resolution: metres that the sensor resolves. Radiance is first averaged over the whole number of pixels
            next to it (3 x 3 pixels of 30 m for 100), over its valid pixels where they are at least half; rows and
            columns beyond whole blocks are left out.
        overwrite: replace an existing output.

    Returns:
        What was done, in sentences.

    Raises:
        UsageError, InputError, OutputError: as for a run; `native_resolution` is no coarser than the pixels.
        InputError: the file is of Level 2 by its name or its unit: temperature already.
    """
    output = check_output(output, [source, mtl], overwrite=overwrite)
    if re.search(r"_ST_", source.name, re.IGNORECASE):
        raise InputError(
            f"{show(source.name)}: is surface temperature (Level 2) by its name, no digital numbers of Level 1"
        )
    constants = read_calibration(mtl, find_band(source) if band is None else _check_band(source, band))
    file = describe_source(source)
    if (file.units or "").strip().lower() in KELVINS:
        raise InputError(f"{show(source.name)}: is in {file.units} already; the digital numbers of Level 1 are needed")
    times = 1 if native_resolution is None else pixels_of(file, native_resolution)
    grid = pool_grid(file.geobox, times)
    units = "degC" if celsius else "K"
    tags = {
        "GEOSR_SOURCE": file.path.name,
        "GEOSR_RADIANCE_MULT": repr(constants.mult),
        "GEOSR_RADIANCE_ADD": repr(constants.add),
        "GEOSR_K1_CONSTANT": repr(constants.k1),
        "GEOSR_K2_CONSTANT": repr(constants.k2),
        "GEOSR_POOLED": f"{times} x {times}",
    }
    write_strips(
        output,
        _strips(file, constants, grid, times, ZERO_CELSIUS if celsius else 0.0),
        grid,
        file.crs_wkt,
        units=units,
        description=[f"brightness temperature, band {constants.band}"],
        tags=tags,
        overwrite=overwrite,
    )
    pooled = f", {pooled_text(grid, times)}" if times > 1 else ""
    return (*file.warnings, f"band {constants.band} to brightness temperature in {units}{pooled}")


def _strips(
    file: Raster, constants: Calibration, grid: GeoBox, times: int, zero: float
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Rows of temperatures from the top down, each strip with the number of its first row."""
    rows, cols = grid.shape
    step = max(1, _ROWS // times)
    for row in range(0, rows, step):
        window = Window(row, 0, min(step, rows - row), cols).times(times)
        numbers, valid = raster.read_source(file, window)
        valid &= (numbers >= constants.least) & (numbers < constants.most)
        radiance, enough = pool_measured(constants.radiance(numbers), valid, times)
        temperature = constants.temperature(np.where(enough, radiance, np.nan))
        yield row, (temperature - zero).astype(np.float32)[None]
