"""The report of a run as one page of HTML that needs nothing else: no network, no other file.

Every text of a file is escaped where it is put in (Jinja's autoescape); the page's policy allows no script but its
own, by its digest, and no connection at all.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray

from geosr.geotiff import encode_picture
from geosr.grid import Window
from geosr.picture import RAMPS, Stretch, paint
from geosr.version import __version__
from geosr.views import Histogram, Look, Surface, View

_LABELS = {"source": "Source", "result": "Result", "guide": "Guide", "hillshade": "Hillshade"}
_LABELS |= {"uncertainty": "Expected error"}
_LEVELS = 65534  # of a quantised value
_SMALL = 4 * 128 * 128  # numbers in a picture
_LISTED = 100  # tiles in the table
_MARKED = 5000  # tiles on a picture
_PLOT = (10.0, 470.0, 186.0, 12.0)  # left, right, bottom, top of the histogram


def make_page(
    content: Mapping[str, Any],
    names: Mapping[str, str],
    look: Look | str,
    deviations: NDArray[np.float64] | None,
    fallen: Sequence[Window],
) -> bytes:
    """The page.

    Args:
        content: the report, as it would be written as JSON.
        names: of the files of `source` and `guide`.
        look: what there is to see, or why there is nothing.
        deviations: the largest distance of the pooled output from the source in cells; None without an output.
        fallen: the parts of the high grid, in its pixels, that the method has no answer for.
    """
    folder = files("geosr") / "page"
    style, script = ((folder / name).read_text("utf-8") for name in ("page.css", "page.js"))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string((folder / "page.html").read_text("utf-8"))
    units = "" if isinstance(look, str) else look.kind.units
    title = Path(content["output"]).name if content["output"] else "no output"
    text = template.render(
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        version=__version__,
        title=title,
        lead=_lead(content, names),
        status=_status(content),
        figures=[*_figures(content, look, units)],
        blind=look if isinstance(look, str) else "",
        pictures=None if isinstance(look, str) else _pictures(look, names, fallen),
        units=units,
        consistency=None if deviations is None else _consistency(content, deviations, units),
        tiles=_tiles(content["tiles"]),
        tables=_tables(content),
        footer=f"Written by geosr {__version__}. Pictures are thinned out and compressed, the values of profiles are "
        "quantised to 65 534 levels: measure in the GeoTIFF, not here.",
    )
    return text.encode(errors="replace")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _uri(picture: NDArray[np.uint8]) -> str:
    """Small pictures, whose pixels are seen singly, without loss."""
    form = "PNG" if picture.size <= _SMALL else "WEBP"
    return f"data:image/{form.lower()};base64,{base64.b64encode(encode_picture(picture, form)).decode()}"


def _pictures(look: Look, names: Mapping[str, str], fallen: Sequence[Window]) -> dict[str, Any]:
    """What the template and the script need for all that is drawn."""
    return {
        "views": [_view(look, index, view, names) for index, view in enumerate(look.views)],
        "layers": [{"name": name, "label": _LABELS[name]} for name in _layers(look)],
        "ramp": [(f"{place:.3f}", colour) for place, colour in _ramp(look)],
        "histogram": _histogram(look.histogram, look.kind.units),
        "data": _data(look, fallen),
    }


def _ramp(look: Look) -> list[tuple[float, str]]:
    colours = RAMPS[look.kind.name]
    return [(i / (len(colours) - 1), colour) for i, colour in enumerate(colours)]


def _layers(look: Look) -> list[str]:
    return [name for name in _LABELS if name in look.views[0].pictures]


def _precise(stretch: Stretch, units: str) -> tuple[str, str]:
    """Both ends with as many digits as tell them apart."""
    places = max(0, int(np.ceil(2 - np.log10(stretch.high - stretch.low))))
    return f"{stretch.low:.{places}f} {units}".strip(), f"{stretch.high:.{places}f} {units}".strip()


# --- the parts of the page -----------------------------------------------------------------------------------


def _lead(content: Mapping[str, Any], names: Mapping[str, str]) -> str:
    settings = content["settings"]
    made = f"{settings['method']} (preset {settings['preset']}), x{settings['scale']}"
    return f"{names['source']} with {names['guide']}: {made}"


def _status(content: Mapping[str, Any]) -> dict[str, str]:
    failed, interpolated = (len(content["tiles"][name]) for name in ("failed", "interpolated"))
    if failed:
        return {"level": "bad", "sign": "✕", "text": f"{failed} of {content['tiles']['total']} tiles failed; no output"}
    if interpolated:
        return {
            "level": "warn",
            "sign": "!",
            "text": f"complete, but {interpolated} tiles hold the interpolated source",
        }
    return {"level": "good", "sign": "✓", "text": "complete: every tile done by the method"}


def _figures(content: Mapping[str, Any], look: Look | str, units: str) -> Iterator[tuple[str, str, str]]:
    """Name, value and a word more."""
    tiles, deviation = content["tiles"], content["deviation"]
    if not isinstance(look, str):
        whole = look.views[0]
        across, down = (f"{length / n:.4g}" for length, n in zip(whole.ground, _pixel(whole), strict=True))
        yield "Output", f"{whole.window.width} x {whole.window.height}", "pixels"
        yield "Pixel", across if across == down else f"{across} x {down}", _ground(look)
    yield "Tiles", f"{tiles['total']}", f"{tiles['skipped']} without data" if tiles["skipped"] else ""
    yield "Guide", f"{content['guided_percent']:g} %", "of the area"
    if deviation:
        yield (
            "Off the source",
            f"{deviation['largest']:.2g} {units}".strip(),
            f"at most, pooled; RMS {deviation['rms']:.2g}",
        )
    yield "Expected error", f"{content['expected_error']:.3g} {units}".strip(), "root mean square"
    if content["seam_ratio"] is not None:
        yield "Seams", f"{content['seam_ratio']:.2f}", "about 1: no tile edge shows, 2: all do"
    seconds = sum(content["seconds"].values())
    yield (
        "Time",
        f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min",
        f"{content['workers']} at once, {content['scheduler']}",
    )


def _ground(look: Look) -> str:
    return "m" if look.placed else "units of the grid"


def _view(look: Look, index: int, view: View, names: Mapping[str, str]) -> dict[str, Any]:
    low, high = _precise(view.stretch, look.kind.units)
    thinned = f", one for {view.step} x {view.step} of the output" if view.step > 1 else " of the output"
    _, rows, cols = view.pictures["guide"].shape
    lit = (
        f"slopes in the hillshade x {view.relief:.2g}"
        if look.kind.name == "elevation"
        else "in the hillshade a surface"
    )
    words = (
        f"{cols} x {rows} pixels{thinned}. Colours from the 2nd to the 98th percentile; "
        f"{look.kind.name} by {look.kind.reason}; {lit}."
    )
    bright = "" if view.doubt is None else f"{view.doubt:.3g} {look.kind.units}".strip()
    words += f" Expected error (standard deviation): dark 0, bright {bright}." if bright else ""
    alts = {
        "source": f"{view.title}: the source {names['source']} in colours from {low} to {high}",
        "result": f"{view.title}: the result in colours from {low} to {high}",
        "guide": f"{view.title}: the guide {names['guide']}",
        "uncertainty": f"{view.title}: the standard deviation to be expected, up to {bright}",
        "hillshade": f"{view.title}: hillshade of the {'result' if 'result' in view.surfaces else 'source'}",
    }
    pictures = [
        {"name": name, "alt": alts[name], "src": _uri(view.pictures[name])} for name in _LABELS if name in view.pictures
    ]
    return {"index": index, "title": view.title, "low": low, "high": high, "words": words, "pictures": pictures}


def _histogram(found: Histogram, units: str) -> dict[str, Any]:
    left, right, bottom, top = _PLOT
    most = max(float(shares.max()) for shares in found.shares.values()) or 1.0
    x = np.linspace(left, right, len(found.edges))

    def steps(shares: NDArray[np.float64]) -> str:
        y = bottom - (bottom - top) * shares / most
        corners = (f"V{level:.1f}H{place:.1f}" for level, place in zip(y, x[1:], strict=True))
        return f"M{left} {bottom}{''.join(corners)}V{bottom}"

    low, high = float(found.edges[0]), float(found.edges[-1])
    places = max(0, int(np.ceil(1 - np.log10(high - low))))
    ticks = [
        (f"{left + t * (right - left):.1f}", f"{low + t * (high - low):.{places}f}")
        for t in (0.05, 0.275, 0.5, 0.725, 0.95)
    ]
    paths = {name: steps(found.shares[name]) if name in found.shares else "" for name in ("source", "result")}
    alt = f"Histogram of values from {low:.{places}f} to {high:.{places}f} {units}".strip()
    return {**paths, "ticks": ticks, "alt": alt}


def _consistency(content: Mapping[str, Any], cells: NDArray[np.float64], units: str) -> dict[str, str]:
    largest = float(cells.max())
    picture = paint(cells, np.ones(cells.shape, bool), "other", Stretch(0.0, largest or 1.0))
    bright = f"{largest:.2g} {units}".strip()
    words = (
        f"How far the output, averaged over each source pixel, lies from the source: dark 0, bright {bright}. "
        f"Asked for: {content['settings']['consistency']}."
    )
    alt = f"Map of the output's deviation from the source, at most {bright}"
    return {"alt": alt, "src": _uri(picture), "words": words}


def _tiles(tiles: Mapping[str, Any]) -> dict[str, Any]:
    fates = [("no output", tile) for tile in tiles["failed"]] + [
        ("interpolated", tile) for tile in tiles["interpolated"]
    ]
    words = f"{tiles['done']} of {tiles['total']} done, {tiles['resumed']} of them by an earlier run"
    words += f"; {tiles['skipped']} without data." if tiles["skipped"] else "."
    words += "" if fates else " None fell back."
    more = f"And {len(fates) - _LISTED} more; the picture shows the first {_MARKED}." if len(fates) > _LISTED else ""
    return {"words": words, "rows": [{**tile, "fate": fate} for fate, tile in fates[:_LISTED]], "more": more}


def _tables(content: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]], bool]]:
    seconds = {name: f"{value:g} s" for name, value in content["seconds"].items()}
    run = {"output": content["output"] or "none", "exit code": content["exit_code"], "scheduler": content["scheduler"]}
    run |= {"workers": content["workers"]}
    if smaller := content["batches"]["smaller"]:
        run |= {"smaller batches": f"{len(smaller)} tiles, for want of memory: another run may differ by rounding"}
    inputs, settings, versions = (content[name] for name in ("inputs", "settings", "versions"))
    notes = [(str(number), text) for number, text in enumerate(content["notes"], 1)]
    return [
        *([("Notes", notes, True)] if notes else []),
        ("Inputs", _rows(inputs), True),
        ("Run", _rows(run | seconds), True),
        ("Settings", _rows(settings), False),
        ("Versions", _rows(versions), False),
    ]


def _rows(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name.replace("_", " "), "not set" if value is None else str(value)) for name, value in values.items()]


# --- what the script works on --------------------------------------------------------------------------------


def _data(look: Look, fallen: Sequence[Window]) -> dict[str, Any]:
    names = _layers(look)
    return {
        "kind": {"elevation": "Elevation", "temperature": "Temperature"}.get(look.kind.name, "Values"),
        "units": look.kind.units,
        "length": _ground(look),
        "labels": _LABELS,
        "left": "source",
        "right": "result" if "result" in names else "guide",
        "views": [_numbers(view, look, fallen) for view in look.views],
    }


def _numbers(view: View, look: Look, fallen: Sequence[Window]) -> dict[str, Any]:
    _, rows, cols = view.pictures["guide"].shape
    here = [window for window in fallen if window.intersection(view.window).pixels]
    marks = [("tile", _mark(view, window, (rows, cols))) for window in here[:_MARKED]]
    marks += [("window", _mark(view, other.window, (rows, cols))) for other in look.views[1:] if view.step > 1]
    return {
        "rows": rows,
        "columns": cols,
        "row": view.window.row,
        "column": view.window.col,
        "pixel": _pixel(view),
        "affine": view.affine[:6],
        "decimals": 6 if max(abs(view.affine.a), abs(view.affine.b)) < 0.01 else 1,
        "ground": view.ground,
        "precision": (view.stretch.high - view.stretch.low) / 1000,
        "marks": marks,
        "surfaces": {name: quantise(surface) for name, surface in view.surfaces.items()},
    }


def _pixel(view: View) -> tuple[float, float]:
    """High pixels to one of the view, along columns and rows: a little less than its step where that leaves a rest."""
    _, rows, cols = view.pictures["guide"].shape
    return view.window.width / cols, view.window.height / rows


def _mark(view: View, window: Window, shape: tuple[int, int]) -> list[float]:
    """x, y, width and height of a window in the view's pixels."""
    down, across = shape[0] / view.window.height, shape[1] / view.window.width
    seen = window.relative_to(view.window)
    return [round(n, 2) for n in (seen.col * across, seen.row * down, seen.width * across, seen.height * down)]


def quantise(surface: Surface) -> dict[str, Any]:
    """Values in 65 534 steps between the least and the largest, packed: 0 stands for invalid pixels.

    The error is at most half a step; with q not 0 the value is low + (q - 1) * step.
    """
    known = surface.values[surface.valid]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    step = (high - low) / (_LEVELS - 1) or 1.0
    levels = np.where(surface.valid, np.rint((surface.values - low) / step) + 1, 0).astype("<u2")
    rows, columns = levels.shape
    packed = base64.b64encode(zlib.compress(levels.tobytes(), 9)).decode()
    return {"rows": rows, "columns": columns, "low": low, "step": step, "values": packed}
