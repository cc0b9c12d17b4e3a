"""Options that several commands share, with one spelling each, and how their values are read."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from geosr.errors import UsageError
from geosr.options import COMPRESSIONS, DTYPES, Inputs

Command = TypeVar("Command", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)


def pair_options(function: Command) -> Command:
    """What the pair is and what its files forgot to say; becomes `Inputs`."""
    options = [
        click.option(
            "--scale",
            type=float,
            default=4,
            show_default=True,
            help="Output pixels to one source pixel, along a side: 2 to 32.",
        ),
        click.option("--band", type=int, help="Band of a source with several, counted from 1."),
        click.option(
            "--source-nodata",
            type=float,
            metavar="VALUE",
            help="Nodata of the source, where the file does not say it.",
        ),
        click.option(
            "--guide-nodata",
            type=float,
            metavar="VALUE",
            help="Nodata of the guide, where the file does not say it.",
        ),
        click.option("--assume-crs", metavar="CRS", help="CRS of the raster that has none, e.g. EPSG:32633."),
        click.option(
            "--allow-ballpark",
            is_flag=True,
            help="Accept a datum shift of unknown accuracy between the two CRS.",
        ),
        click.option(
            "--bounds",
            type=float,
            nargs=4,
            metavar="LEFT BOTTOM RIGHT TOP",
            help="Work on this part only (in the source's CRS, widened to whole source pixels).",
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def inputs_from(source: Path, guide: Path, values: dict[str, Any]) -> Inputs:
    """`Inputs` from a command's options, which are taken out of `values`."""
    scale = values.pop("scale")
    names = ("band", "source_nodata", "guide_nodata", "assume_crs", "allow_ballpark", "bounds")
    from geosr.grid import check_scale

    return Inputs(source, guide, check_scale(scale), **{name: values.pop(name) for name in names})


def recipe_options(function: Command) -> Command:
    """What changes the output's bytes; becomes `Recipe`."""
    options = [
        click.option("--method", default="mmsr", show_default=True, help="See `geosr methods`."),
        click.option(
            "--preset",
            default="default",
            show_default=True,
            help="The method's set of settings; paper-depth and paper-dem are MMSR as published.",
        ),
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="KEY=VALUE",
            help="One setting of the method, over the preset's; may be repeated.",
        ),
        click.option(
            "--consistency",
            metavar="MODE",
            help="exact: the output pools to the source; soft:SIGMA: within SIGMA of it; off.  [default: exact, off in the paper presets]",
        ),
        click.option(
            "--tile",
            type=int,
            default=320,
            show_default=True,
            help="Side of a tile in output pixels, at most.",
        ),
        click.option("--seed", type=int, default=0, show_default=True, help="Of all random numbers."),
        click.option(
            "--dtype",
            type=click.Choice(DTYPES),
            default="float32",
            show_default=True,
            help="Of the output; integers keep the source's scale and offset.",
        ),
        click.option("--compress", type=click.Choice(COMPRESSIONS), default="deflate", show_default=True),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def read_settings(items: tuple[str, ...]) -> dict[str, Any]:
    """`KEY=VALUE` items as a mapping; values are numbers, true/false, or text."""
    settings = {}
    for item in items:
        key, equals, text = item.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {item!r} is not of the form KEY=VALUE")
        settings[key] = _value(text)
    return settings


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
