"""Units in which heights and temperatures are given, by the names that files have for them, in small letters."""

from __future__ import annotations

ZERO_CELSIUS = 273.15  # kelvin

METRES = {
    **dict.fromkeys(("m", "metre", "metres", "meter", "meters"), 1.0),
    **dict.fromkeys(("ft", "foot", "feet", "us survey foot", "us-ft", "ftus"), 0.3048),
    **dict.fromkeys(("dm", "decimetre", "decimeter"), 0.1),
    **dict.fromkeys(("cm", "centimetre", "centimeter"), 0.01),
    **dict.fromkeys(("mm", "millimetre", "millimeter"), 0.001),
}
"""Length of the units in which heights are given."""

_CELSIUS = ("c", "°c", "degc", "deg c", "deg_c", "celsius", "degrees celsius", "degree celsius", "degree_celsius")

KELVINS = {
    **dict.fromkeys(("k", "kelvin", "kelvins"), (1.0, 0.0)),
    **dict.fromkeys(_CELSIUS, (1.0, ZERO_CELSIUS)),
    **dict.fromkeys(("f", "°f", "degf", "fahrenheit", "degrees fahrenheit"), (5 / 9, ZERO_CELSIUS - 32 * 5 / 9)),
}
"""Size of a degree, and the temperature at 0."""

_LENGTHS = {name: (metres, 0.0) for name, metres in METRES.items()}


def conversion(of: str, into: str) -> tuple[float, float] | None:
    """Factor and offset that bring values `of` one unit into another; None where they are not known to be of a kind."""
    of, into = of.strip().lower(), into.strip().lower()
    for units in (_LENGTHS, KELVINS):
        if of in units and into in units:
            (size, zero), (other_size, other_zero) = units[of], units[into]
            return size / other_size, (zero - other_zero) / other_size
    return (1.0, 0.0) if of == into else None


def metres_of(unit: str | None) -> float:
    """Length of a unit; 1 where it is none of length, or not named."""
    return METRES.get((unit or "").strip().lower(), 1.0)
