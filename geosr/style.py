"""A QGIS style beside an output: the ramp of its kind of values, stretched to what it holds."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from geosr import raster
from geosr.describe import describe_source
from geosr.errors import UsageError
from geosr.files import check_place, write_whole
from geosr.picture import RAMPS, Kind, Stretch
from geosr.quicklook import kind_of
from geosr.raster_guard import show

_GLANCE = 1024  # pixels a side at most that the stretch is measured on


def style_path(output: Path) -> Path:
    """Where QGIS looks for the style of a layer's file."""
    return output.with_suffix(".qml")


def check_style(output: Path, *, overwrite: bool) -> None:
    """See before any work that the style can be written, and replaces none unasked.

    Raises:
        UsageError: one is there.
        OutputError: as `check_place`.
    """
    if check_place(style_path(output)).exists() and not overwrite:
        raise UsageError(f"{show(style_path(output))} exists; use --overwrite to replace it")


def write_style(output: Path) -> None:
    """Write the style of the raster `output`.

    Raises:
        InputError: the output cannot be read.
        OutputError: the style cannot be written.
    """
    file = describe_source(output)
    step = -(-max(file.shape) // _GLANCE)
    stretch = Stretch.measure(*raster.glance_source(file, step))
    write_whole(style_path(output), make_style(kind_of(file), stretch))


def make_style(kind: Kind, stretch: Stretch) -> bytes:
    """A QGIS layer style (QML): a ramp over the stretch, values beyond it in the colours of its ends."""
    colours = RAMPS[kind.name]
    ends = {"classificationMin": f"{stretch.low:.9g}", "classificationMax": f"{stretch.high:.9g}"}
    document = ElementTree.Element("qgis", version="3.22", styleCategories="Symbology")
    renderer = ElementTree.SubElement(
        ElementTree.SubElement(document, "pipe"),
        "rasterrenderer",
        {"type": "singlebandpseudocolor", "band": "1", "opacity": "1", "alphaBand": "-1", "nodataColor": "", **ends},
    )
    span = {"minimumValue": ends["classificationMin"], "maximumValue": ends["classificationMax"]}
    shader = ElementTree.SubElement(
        ElementTree.SubElement(renderer, "rastershader"),
        "colorrampshader",
        {"colorRampType": "INTERPOLATED", "classificationMode": "2", "clip": "0", **span},
    )
    for i, colour in enumerate(colours):
        value = stretch.low + i * (stretch.high - stretch.low) / (len(colours) - 1)
        label = f"{value:.5g} {kind.units}".strip()
        ElementTree.SubElement(shader, "item", value=f"{value:.9g}", color=colour, alpha="255", label=label)
    ElementTree.indent(document)
    head = b"<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
    text: bytes = ElementTree.tostring(document, encoding="utf-8")
    return head + text + b"\n"
