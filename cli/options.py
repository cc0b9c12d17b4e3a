"""Options that several commands share, with one spelling each, and how their values are read."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import click

from geosr.consistency import Consistency
from geosr.errors import UsageError
from geosr.options import COMPRESSIONS, DEVICES, DTYPES, FITS, ON_TILE_ERROR, Inputs, Recipe

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class _Path(click.Path):
    """A path; a leading ~ is the user's home also where the shell left it, as in quotes and behind `--source=`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path as a `Path`."""
        return super().convert(os.path.expanduser(value), param, ctx)


PATH = _Path(path_type=Path, readable=False)  # what cannot be read is refused by the library


class Option(click.Option):
    """An option that stands under a heading of its own in the help."""

    def __init__(self, *args: Any, section: str = "Other options", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


class Command(click.Command):
    """A command whose help shows its options by section, in the order in which the sections first appear."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write every section with its options."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record and record[1]:  # arguments have no help: the first line and the text name them
                sections.setdefault(getattr(parameter, "section", "Other options"), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


def option(section: str, *names: str, **values: Any) -> Callable[[Decorated], Decorated]:
    """A `click.option` under the heading `section`."""
    return click.option(*names, cls=Option, section=section, **values)


def _together(*options: Callable[[Any], Any]) -> Callable[[Decorated], Decorated]:
    def decorate(function: Decorated) -> Decorated:
        for each in reversed(options):
            function = each(function)
        return function

    return decorate


_PAIR = "What the job is"
_MISSING = "What the files do not say"
_RESULT = "How the result is made"
_RUN = "How it runs"

scale_option = option(
    _PAIR,
    "--scale",
    type=float,
    default=4,
    show_default=True,
    metavar="N",
    help="How many times finer: N x N output pixels for each source pixel, a whole number from 2 to 32.",
)
part_options = _together(
    option(
        _PAIR,
        "--bounds",
        type=float,
        nargs=4,
        metavar="LEFT BOTTOM RIGHT TOP",
        help="Only this part, in coordinates of the source's CRS, widened to whole source pixels: for a quick trial.",
    ),
    option(
        _PAIR,
        "--band",
        metavar="N",
        help="Which band of a source that has several, from 1; or by wavelength, as 8.2um or 865nm, where the file (an "
        "ENVI header) gives those; for upscale and batch also 'all', into one file.",
    ),
    option(
        _PAIR,
        "--native-resolution",
        type=float,
        metavar="METRES",
        help="What the source's sensor resolves, where its file has smaller pixels: these are first averaged to that, "
        "over the nearest whole number of them, and --scale counts from there.",
    ),
    option(
        _PAIR,
        "--guide-shift",
        type=float,
        nargs=2,
        metavar="X Y",
        help="Move the guide by so much first, in units of the source's CRS (X to the east, Y to the north), where it "
        "is known to be off by that.",
    ),
    option(
        _PAIR,
        "--coregister",
        is_flag=True,
        help="First find how far the guide is off from what the two show, as a whole and from place to place, and move "
        "it; says what it found.",
    ),
)
missing_options = _together(
    option(
        _MISSING,
        "--source-nodata",
        type=float,
        metavar="VALUE",
        help="A stored value that means 'no data' in the source, beside what the file declares.",
    ),
    option(
        _MISSING,
        "--guide-nodata",
        type=float,
        metavar="VALUE",
        help="The same for the guide, e.g. 0 for black borders.",
    ),
    option(
        _MISSING,
        "--assume-crs",
        metavar="CRS",
        help="The coordinate system of a raster that names none, e.g. EPSG:32633.",
    ),
    option(
        _MISSING,
        "--allow-ballpark",
        is_flag=True,
        help="Go on where the way between the two CRS is not known accurately; the output may be metres off.",
    ),
)
pair_options = _together(scale_option, part_options, missing_options)
"""What the pair is; becomes `Inputs` by `inputs_from`."""

method_options = _together(
    option(
        _RESULT,
        "--method",
        default="mmsr",
        show_default=True,
        metavar="NAME",
        help="How the detail is found; `geosr methods` lists them, and 'auto' takes the one that does "
        "best on the pair itself, one scale lower (see `geosr assess`).",
    ),
    option(
        _RESULT,
        "--preset",
        default="default",
        show_default=True,
        metavar="NAME",
        help="The method's set of settings; paper-depth and paper-dem are MMSR as published (slow).",
    ),
    option(
        _RESULT,
        "--weights",
        type=PATH,
        metavar="FILE",
        help="The weights of a method that is a trained network (fdsr, fdkn, dkn), as `geosr train` makes them.",
    ),
)
fit_option = option(
    _RESULT,
    "--fit",
    type=click.Choice(FITS),
    metavar="WHERE",
    help="Fit the method once on some tiles of the 'scene', or on each 'tile' by itself: slower, for scenes whose "
    "parts have nothing in common.  [default: scene; tile for the paper presets]",
)
recipe_options = _together(
    method_options,
    option(
        _RESULT,
        "--set",
        "settings",
        multiple=True,
        metavar="KEY=VALUE",
        help="Change one setting of the method, e.g. epochs=200; may be repeated.",
    ),
    option(
        _RESULT,
        "--consistency",
        metavar="MODE",
        help="How true to the source: 'exact' (the mean over each source pixel is that pixel's value), 'soft:SIGMA' "
        "(within SIGMA of it, for a source with noise), or 'off'.  [default: exact; off in the paper presets]",
    ),
    option(
        _RESULT,
        "--min",
        "minimum",
        type=float,
        metavar="VALUE",
        help="Smallest value that the output may have, e.g. 0 for canopy heights; means over source pixels stay.",
    ),
    option(_RESULT, "--max", "maximum", type=float, metavar="VALUE", help="Largest one."),
    option(
        _RESULT,
        "--dtype",
        type=click.Choice(DTYPES),
        default="float32",
        show_default=True,
        metavar="TYPE",
        help=f"Data type of the output: {', '.join(DTYPES)}. Integer types keep the source's scale and offset.",
    ),
    option(
        _RESULT,
        "--compress",
        type=click.Choice(COMPRESSIONS),
        default="deflate",
        show_default=True,
        metavar="NAME",
        help=f"Compression of the output, lossless: {' or '.join(COMPRESSIONS)}.",
    ),
    option(
        _RESULT,
        "--tile",
        type=int,
        metavar="PIXELS",
        help="Work on tiles of at most this many output pixels a side.  [default: 320, or the least that method and "
        "scale allow]",
    ),
    fit_option,
    option(
        _RESULT,
        "--seed",
        type=int,
        default=0,
        show_default=True,
        metavar="N",
        help="Start of all random numbers: the same seed gives the same output.",
    ),
)
"""What changes the output's bytes; becomes `Recipe`."""

device_option = option(
    _RUN,
    "--device",
    default="auto",
    show_default=True,
    metavar="NAME",
    help=f"Where the work is done: {', '.join(DEVICES)}; auto is a GPU if there is one.",
)

scheduler_options = _together(
    option(
        _RUN,
        "--scheduler",
        default="threads",
        show_default=True,
        metavar="NAME",
        help="What tiles are worked on by: 'threads'; 'processes', of which one may die at the cost of its tile; or "
        "'tcp://HOST:PORT', a Dask scheduler whose workers see the same files. Does not change the output.",
    ),
    option(
        _RUN,
        "--gpus",
        metavar="WHICH",
        help="'all', or numbers as in 0,1: one worker process a GPU. Needs --scheduler processes.",
    ),
    option(
        _RUN,
        "--tile-timeout",
        type=float,
        metavar="SECONDS",
        help="End a worker process that has a tile and gets no further for so long; the tile gets one more try. Also "
        "how long a cluster may be without workers. Not for threads, which cannot be ended.  [default: 10 times the "
        "slowest tile so far, at least 600; a day until the first one is done]",
    ),
)
"""What the tiles are worked on by."""

tile_error_option = option(
    _RUN,
    "--on-tile-error",
    type=click.Choice(ON_TILE_ERROR),
    default="fail",
    show_default=True,
    metavar="ACTION",
    help="Tiles that fail: 'fail' writes no output and keeps the other tiles for the next run; 'interpolate' writes "
    "the interpolated source there and names them in a tag. The exit code is 5 either way.",
)

style_option = option(
    _RUN, "--style", is_flag=True, help="Write a QGIS style beside the output, too: its name with .qml."
)


def uncertainty_option(metavar: str) -> Callable[[Decorated], Decorated]:
    """`--uncertainty`; `metavar` says what names it takes."""
    return option(
        _RUN,
        "--uncertainty",
        type=PATH,
        metavar=metavar,
        help="A GeoTIFF to write as well: the standard deviation of every pixel, as far as the result itself tells.",
    )


batch_option = option(
    _RUN,
    "--batch",
    type=int,
    metavar="N",
    help="Tiles that are fitted together, with --fit tile and a method that can (mmsr); rounding depends on it.  "
    "[default: what a GPU has memory for; 1 on the CPU]",
)

table_options = _together(
    option("What is written", "--json", type=PATH, metavar="FILE", help="Write all of it as JSON."),
    option("What is written", "--csv", type=PATH, metavar="FILE", help="Write the table as CSV."),
    option("What is written", "--markdown", type=PATH, metavar="FILE", help="Write the table as Markdown."),
)


def method_list(default: str) -> Callable[[Decorated], Decorated]:
    """`--methods`, to be read by `read_methods`."""
    return option(
        _RESULT,
        "--methods",
        default=default,
        show_default=True,
        metavar="NAME,NAME",
        help="Methods to run, each a NAME, a NAME:PRESET as mmsr:paper-depth, or a NAME:FILE of a trained network's "
        "weights.",
    )


def read_methods(text: str) -> dict[str, tuple[str, str]]:
    """Method, and preset or file of weights, by the label that the user gave, in that order; unknown ones refused."""
    from geosr import methods

    chosen = {}
    for label in text.split(","):
        name, _, kind = label.strip().partition(":")
        found = methods.entry(name)
        if found.needs_weights:
            if not kind:
                raise UsageError(f"{name} needs the file of its weights: {name}:FILE")
            kind = os.path.expanduser(kind)
            methods.create_as(name, kind)  # refused before any other has worked
        elif (kind or "default") not in found.presets:
            raise UsageError(f"{name} has no preset {kind!r}; there are: {', '.join(found.presets)}")
        chosen[label.strip()] = (name, kind or "default")
    return chosen


def inputs_from(source: Path, guide: Path, values: dict[str, Any]) -> Inputs:
    """`Inputs` from a command's options, which are taken out of `values`."""
    from geosr.grid import check_scale

    scale = check_scale(values.pop("scale"))
    names = {field.name for field in fields(Inputs)} - {"source", "guide", "scale"}
    return Inputs(source, guide, scale, **{name: values.pop(name) for name in names})


def recipe_from(values: dict[str, Any]) -> Recipe:
    """`Recipe` from what `recipe_options` gave."""
    changed: dict[str, Any] = {"settings": read_settings(values["settings"])}
    if values["consistency"] is not None:
        changed["consistency"] = Consistency.parse(values["consistency"])
    return Recipe(**values | changed)


def read_settings(items: tuple[str, ...]) -> dict[str, Any]:
    """`KEY=VALUE` items as a mapping; values are numbers, true/false, or text."""
    settings = {}
    for item in items:
        key, equals, text = item.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {item!r} is not of the form KEY=VALUE, e.g. --set epochs=200")
        settings[key] = _value(text)
    return settings


def _value(text: str) -> bool | float | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def refuse_given(context: click.Context, names: Collection[str], why: str) -> None:
    """Refuse options of those parameters that were given, for they have no effect `why`."""
    for parameter in context.command.params:
        given = context.get_parameter_source(parameter.name or "") is click.core.ParameterSource.COMMANDLINE
        if parameter.name in names and given:
            raise UsageError(f"{parameter.opts[0]} has no effect {why}")
