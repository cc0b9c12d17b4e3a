"""Which band of a raster that has several: by its number, or by its wavelength where the file gives those."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from geosr.errors import InputError, UsageError

Band = int | str
"""A number from 1, or a wavelength as in `8.2um` and `865nm`."""

ALL = "all"
"""In place of a band: each of them, where a run can have more than one."""

_MICROMETRES = {"um": 1.0, "µm": 1.0, "μm": 1.0, "nm": 1e-3}
_UNITS = {"micrometers": 1.0, "micrometres": 1.0, "um": 1.0, "nanometers": 1e-3, "nanometres": 1e-3, "nm": 1e-3}
_LARGEST = 100.0
"""Numbers without a unit up to here are micrometres; above they may be nanometres as well as wavenumbers."""


def read_band(band: Band) -> tuple[int | None, float | None]:
    """The number, or the wavelength in micrometres; the other one is None.

    Raises:
        UsageError: it is neither.
    """
    if isinstance(band, int) or band.strip().isdecimal():
        return int(band), None
    if band == ALL:
        raise UsageError("one band is needed here, not all; give its number or wavelength")
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(um|µm|μm|nm)\s*", band, re.IGNORECASE)
    if not found or float(found[1]) == 0:
        raise UsageError(f"band {band!r} is neither a number nor a wavelength, as 3, 8.2um or 865nm")
    return None, float(found[1]) * _MICROMETRES[found[2].lower()]


def wavelength_of(tags: Mapping[str, str]) -> float | None:
    """A band's centre in micrometres by its tags `wavelength` and `wavelength_units`, as GDAL has them of ENVI headers.

    None where they give none. Without a unit only numbers up to 100 are understood, as micrometres.
    """
    try:
        number = float(tags["wavelength"])
    except (KeyError, ValueError):
        return None
    unit = tags.get("wavelength_units", "").strip().lower()
    if not (0 < number < math.inf):
        return None
    if unit == "wavenumber":  # 1/cm
        return 1e4 / number
    if unit in ("", "unknown"):
        return number if number <= _LARGEST else None
    return number * _UNITS[unit] if unit in _UNITS else None


def nearest(name: str, wanted: float, centres: Sequence[float | None]) -> int:
    """The index of the band whose centre is next to `wanted` micrometres.

    Raises:
        InputError: the file called `name` gives no wavelengths, or `wanted` lies beyond the first or last of them by
            more than the distance to their neighbour.
    """
    known = sorted((centre, index) for index, centre in enumerate(centres) if centre is not None)
    if not known:
        raise InputError(f"{name}: gives no wavelengths of its bands; choose one by its number")
    first, last = known[0][0], known[-1][0]
    gaps = (known[1][0] - first, last - known[-2][0]) if len(known) > 1 else (0.0, 0.0)
    if not first - gaps[0] <= wanted <= last + gaps[1]:
        raise InputError(f"{name}: has bands from {first:g} to {last:g} um, none of {wanted:g} um")
    return min(known, key=lambda each: (abs(each[0] - wanted), each[1]))[1]
