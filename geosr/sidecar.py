"""What a `.aux.xml` beside a raster says of it: nodata values, position and CRS (GDAL's PAM; ArcGIS writes them, too).

GDAL itself is kept from reading them: what they say it would silently put in the place of what the file says. Here it
only fills what the file leaves open.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from affine import Affine

_LARGEST = 1 << 24
"""Bytes; those of honest files hold some statistics and at most a colour table."""

_OTHER = "GCPList", "Scale", "Offset"
"""What is not taken over from there."""


@dataclass(frozen=True)
class Sidecar:
    """What it says.

    Attributes:
        path: where it lies.
        crs: in a form that pyproj reads, WKT as a rule; None where it names none.
        affine: of the raster's grid, columns first; None where it says none.
        nodata: of bands, by their 1-based numbers.
        others: names of elements that are not taken over.
    """

    path: Path
    crs: str | None = None
    affine: Affine | None = None
    nodata: dict[int, float] = field(default_factory=dict)
    others: tuple[str, ...] = ()


def read_sidecar(raster: Path) -> Sidecar:
    """That beside the raster; one that is not there, or cannot be made out, says nothing."""
    path = raster.with_name(raster.name + ".aux.xml")
    try:
        if not path.is_file():
            return Sidecar(path)
        if path.stat().st_size > _LARGEST:
            return Sidecar(path, others=("what it says at such length",))
        root = ElementTree.fromstring(_plain(path.read_bytes()))
        return Sidecar(path, _crs(root), _affine(root), dict(_nodata(root)), tuple(_others(root)))
    except OSError:
        return Sidecar(path)
    except (ValueError, ElementTree.ParseError):
        return Sidecar(path, others=("XML that cannot be made out",))


def _plain(text: bytes) -> bytes:
    """The same; `ValueError` where it declares entities, which may multiply or name other files."""
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise ValueError("it declares entities")
    return text


def _crs(root: ElementTree.Element) -> str | None:
    return (root.findtext("SRS") or "").strip() or None


def _affine(root: ElementTree.Element) -> Affine | None:
    text = root.findtext("GeoTransform")
    if not text:
        return None
    left, across, col_skew, top, row_skew, down = map(float, text.split(","))
    return Affine(across, col_skew, left, row_skew, down, top)


def _nodata(root: ElementTree.Element) -> Iterator[tuple[int, float]]:
    for band in root.iterfind("PAMRasterBand"):
        if value := band.findtext("NoDataValue"):
            yield int(band.get("band", "1")), float(value)


def _others(root: ElementTree.Element) -> Iterator[str]:
    return (name for name in _OTHER if root.find(f".//{name}") is not None)
