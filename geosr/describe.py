"""What a raster file is: its header, checked and put into a `Raster`."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj.exceptions import CRSError, ProjError
from rasterio.enums import ColorInterp, MaskFlags, Resampling

from geosr import coordinates
from geosr import raster_guard as guard
from geosr.bands import Band, nearest, read_band, wavelength_of
from geosr.errors import InputError, UsageError
from geosr.folders import describe_folder
from geosr.gdal import open_file, translated
from geosr.grid import crs_name, pool_grid
from geosr.preflight import SMALL, check_readable, has_valid
from geosr.raster import Raster, value_text
from geosr.raster_guard import show
from geosr.sidecar import Sidecar, read_sidecar

MIN_SIDE = 2
MAX_BANDS = 1024
MAX_BLOCK_BYTES = 256 << 20
MAX_TAG_BYTES = 1 << 20

_STALE_TAGS = ("AREA_OR_POINT", "scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned")


def describe_source(
    path: str | os.PathLike[str],
    *,
    band: Band | None = None,
    nodata: float | None = None,
    assume_crs: str | None = None,
    native_resolution: float | None = None,
) -> Raster:
    """What the coarse raster at `path` is; it can be read and has at least one valid pixel.

    Args:
        path: a local raster file, or a folder of them that lie on one grid.
        band: 1-based band to read, or its wavelength; needed where there are several besides alpha.
        nodata: a value that means "no data", in stored units, beside what the file declares.
        assume_crs: the CRS of a file that names none.
        native_resolution: metres that the sensor resolves, where the file's pixels are smaller: its pixels are then
            means over the nearest whole number of the file's, see `consistency.pool_measured`; rows and columns
            beyond whole blocks are left out.

    Raises:
        InputError: the file is refused; the message says why.
        UsageError: `band`, `assume_crs` or `native_resolution` makes no sense.
    """
    raster = _describe_any(
        path, lambda file: _describe(file, nodata=nodata, assume_crs=assume_crs, band=band, source=True)
    )
    check_readable(raster)
    if not has_valid(raster):
        declared = "" if raster.nodata is None else f" (nodata is {value_text(raster.nodata, raster.dtype)})"
        raise InputError(f"{show(raster.path)}: no pixel is valid{declared}; there is nothing to super-resolve")
    return raster if native_resolution is None else _pool_file(raster, native_resolution)


def _pool_file(raster: Raster, resolution: float) -> Raster:
    """The raster with pixels of about `resolution` metres, to be averaged when they are read."""
    times = pixels_of(raster, resolution)
    geobox = pool_grid(raster.geobox, times)
    note = f"{show(raster.path.name)}: {pooled_text(geobox, times)}, for --native-resolution {resolution:g}"
    return replace(raster, geobox=geobox, pooled=times, warnings=(*raster.warnings, note))


def pixels_of(raster: Raster, resolution: float) -> int:
    """The whole number of the raster's pixels, along a side, whose size comes next to `resolution` metres; 2 or more.

    Raises:
        InputError: it has no CRS.
        UsageError: `resolution` is no coarser than its pixels, or than half of the raster.
    """
    if raster.geobox.crs is None:
        raise InputError(f"{show(raster.path.name)} has no CRS: its pixels have no size in metres")
    step = sum(coordinates.ground_resolution(raster.geobox)) / 2
    times = round(resolution / step) if 0 < resolution < 1e7 else 0
    if not 2 <= times <= min(raster.shape) // 2:
        raise UsageError(
            f"--native-resolution {resolution:g}: pixels are {step:.3g} m; give metres from one and a half times that "
            "on, to half the raster"
        )
    return times


def pooled_text(geobox: GeoBox, times: int) -> str:
    """For people: what one pixel of `geobox`, from `pool_grid`, is the mean of."""
    x, y = coordinates.ground_resolution(geobox)
    return f"{times} x {times} pixels averaged to {x:.4g} x {y:.4g} m"


def describe_guide(
    path: str | os.PathLike[str],
    *,
    nodata: float | None = None,
    assume_crs: str | None = None,
    near: GeoBox | None = None,
) -> Raster:
    """What the sharp raster at `path` is; it can be read. All bands but alpha are used.

    Args:
        path: a local raster file, or a folder of them that lie on one grid.
        nodata: a value that means "no data" in every band, beside what the file declares.
        assume_crs: the CRS of a file that names none.
        near: the grid that it is wanted for. Files of a folder that lie elsewhere are left out, and a picture with a
            world file, which cannot name its CRS, is taken to be in that grid's; a warning says so.

    Raises:
        InputError: the file is refused; the message says why.
        UsageError: `assume_crs` makes no sense.
    """
    raster = _describe_any(
        path, lambda file: _describe(file, nodata=nodata, assume_crs=assume_crs, band=None, source=False), near
    )
    if near and near.crs and raster.georeferenced and not raster.geobox.crs and raster.driver in guard.PICTURES:
        found = describe_guide(path, nodata=nodata, assume_crs=near.crs.to_wkt(), near=near)
        name = show(raster.path.name)
        note = f"{name} names no CRS, as a picture cannot: taken to be in {crs_name(near.crs)}; else give --assume-crs"
        return replace(found, warnings=(*found.warnings, note))
    check_readable(raster)
    return raster


def _describe_any(
    path: str | os.PathLike[str], describe: Callable[[str | os.PathLike[str]], Raster], near: GeoBox | None = None
) -> Raster:
    """A file, or a folder's files as one raster."""
    raster = describe_folder(path, describe, near) if guard.is_folder(path) else describe(path)
    if min(raster.shape) < MIN_SIDE:
        rows, cols = raster.shape
        raise InputError(f"{show(raster.path)}: is {cols} x {rows} pixels; at least {MIN_SIDE} x {MIN_SIDE} are needed")
    return raster


def _describe(
    path: str | os.PathLike[str],
    *,
    nodata: float | None,
    assume_crs: str | None,
    band: Band | None,
    source: bool,
) -> Raster:
    file = guard.local_file(path)
    driver = guard.find_driver(file)
    world, sidecar = guard.world_file(file, driver), read_sidecar(file)
    notes: tuple[str, ...] = ()
    identity = guard.fingerprint(file)
    options = {"GEOREF_SOURCES": "INTERNAL"} if driver == "GTiff" else {}
    if world and driver == "GTiff":
        with open_file(file, driver, options) as dataset:
            if dataset.transform == Affine.identity() and not dataset.gcps[0]:
                options = {"GEOREF_SOURCES": "WORLDFILE,INTERNAL"}  # the header may hold an identity; it has the CRS
                notes += (f"{show(file.name)} has no position of its own: taken from {show(world.name)}",)
            else:
                notes += (f"{show(world.name)} is not read: {show(file.name)} has a position of its own",)
    with open_file(file, driver, options) as dataset, translated(file, "described"):
        _check_header(file, dataset, identity[0])
        alpha = next((i for i, c in enumerate(dataset.colorinterp, 1) if c == ColorInterp.alpha), None)
        bands, chosen = _choose_bands(file, dataset, alpha, band, source)
        notes += chosen
        if source and ColorInterp.palette == dataset.colorinterp[bands[0] - 1]:
            notes += (f"{show(file.name)} has a palette: its numbers are taken as values, not as colours",)
        wkt, crs = _find_crs(file, dataset, sidecar.crs, assume_crs)
        geobox, placed = _find_grid(file, dataset, sidecar.affine, crs)
        nodatas = tuple(_declared(dataset, sidecar, band) for band in bands)
        dtype = dataset.dtypes[bands[0] - 1]
        notes += (*_sidecar_notes(file, dataset, sidecar, bands), *_nodata_notes(file, (nodatas[0], nodata), dtype))
        tags, band_tags, tag_notes = _read_tags(file, dataset, bands[0])
        scale, offset = float(dataset.scales[bands[0] - 1]), float(dataset.offsets[bands[0] - 1])
        if source and not (math.isfinite(scale) and math.isfinite(offset) and scale != 0):
            raise InputError(f"{show(file)}: scale {scale:g} and offset {offset:g} give no values; correct them")
        if len(dataset.subdatasets) > 1:
            notes += (f"{show(file.name)} holds {len(dataset.subdatasets)} images; the first is read",)
        return Raster(
            path=file,
            driver=driver,
            geobox=geobox,
            crs_wkt=wkt,
            georeferenced=placed,
            bands=bands,
            dtype=dtype,
            nodata=nodata if nodatas[0] is None else nodatas[0],
            nodatas=nodatas,
            scale=scale,
            offset=offset,
            units=_short(dataset.units[bands[0] - 1] or dataset.tags().get("units")),  # where rioxarray puts it
            description=_short(dataset.descriptions[bands[0] - 1]),
            tags=tags,
            band_tags=band_tags,
            area_or_point="Point" if dataset.tags().get("AREA_OR_POINT", "").lower() == "point" else "Area",
            colorinterp=tuple(c.name for c in dataset.colorinterp),
            palette=None if source else _read_palette(dataset, bands),
            alpha=alpha,
            alpha_opaque=_opaque(dataset, alpha),
            masked=any(_has_mask(flags) for flags in dataset.mask_flag_enums),
            block_shape=tuple(dataset.block_shapes[bands[0] - 1]),
            fingerprint=identity,
            options=options,
            warnings=notes + tag_notes,
            further_nodata=nodata,
        )


def _check_header(file: Path, dataset: Any, size: int) -> None:
    """Refuse headers that no honest file has, before anything is allocated for them."""
    if dataset.count == 0:
        names = ", ".join(show(s.rsplit(":", 1)[-1], 40) for s in dataset.subdatasets[:8])
        hint = f"holds several layers ({names}); extract one with gdal_translate" if names else "holds no raster band"
        raise InputError(f"{show(file)}: {hint}")
    if dataset.count > MAX_BANDS:
        raise InputError(f"{show(file)}: has {dataset.count} bands; at most {MAX_BANDS} are read")
    if any("complex" in dtype for dtype in dataset.dtypes):
        raise InputError(f"{show(file)}: holds complex numbers; write amplitude or phase as a real raster first")
    bytes_each = [np.dtype(dtype).itemsize for dtype in dataset.dtypes]
    claimed = dataset.width * dataset.height * sum(bytes_each)
    if guard.claims_too_much(claimed, size):
        raise InputError(
            f"{show(file)}: the header claims {dataset.width} x {dataset.height} pixels ({claimed / 2**30:,.0f} GiB), "
            f"the file has {size} bytes; it is damaged or hostile"
        )
    if dataset.driver == "ENVI":
        _check_envi(file, dataset, claimed, size)
    rows, cols = dataset.block_shapes[0]
    pixel = sum(bytes_each) if dataset.interleaving and dataset.interleaving.name == "pixel" else bytes_each[0]
    if rows * cols * pixel > MAX_BLOCK_BYTES:
        raise InputError(
            f"{show(file)}: is stored in blocks of {cols} x {rows} pixels ({rows * cols * pixel >> 20} MiB); "
            "rewrite it in tiles: gdal_translate -co TILED=YES"
        )


def _check_envi(file: Path, dataset: Any, claimed: int, size: int) -> None:
    """Refuse data that are not as long as their header says: GDAL reads zeros beyond their end, and passes over more.

    Compressed ones have a length of their own, and a checksum.
    """
    header = {key.lower(): text for key, text in dataset.tags(ns="ENVI").items()}
    expected = int(header.get("header_offset", 0)) + claimed
    if size != expected and not int(header.get("file_compression", 0)):
        raise InputError(
            f"{show(file)}: its header describes {expected} bytes, the file has {size}; "
            "it is incomplete, or the header belongs to another file"
        )


def _choose_bands(
    file: Path, dataset: Any, alpha: int | None, band: Band | None, source: bool
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The bands to read, all but alpha for a guide, one for a source; and what to say of the choice."""
    data = tuple(i for i in range(1, dataset.count + 1) if i != alpha)
    if not data:
        raise InputError(f"{show(file)}: has an alpha band only; there is nothing to read")
    if not source:
        if len({dataset.dtypes[i - 1] for i in data}) > 1:
            raise InputError(f"{show(file)}: its bands have different types; write them as one type first")
        return data, ()
    if band is None and len(data) == 1:
        return data, ()
    number, wavelength = (None, None) if band is None else read_band(band)
    if wavelength is not None:
        centres = [wavelength_of(dataset.tags(i)) for i in data]
        number = data[nearest(show(file), wavelength, centres)]
        centre = centres[data.index(number)]
        return (number,), (f"{show(file.name)}: band {number} is taken, at {centre:.4g} um",)
    if number is not None and 1 <= number <= dataset.count:
        return (number,), ()
    listed = ", ".join(
        f"{i} {show(dataset.descriptions[i - 1] or dataset.colorinterp[i - 1].name, 40)}" for i in data[:12]
    )
    more = ", ..." if len(data) > 12 else ""
    if band is None:
        raise InputError(f"{show(file)}: has {len(data)} bands ({listed}{more}); choose one with --band")
    raise UsageError(f"band {band} was asked for, but {show(file)} has {dataset.count} ({listed}{more})")


def _find_crs(file: Path, dataset: Any, beside: str | None, assume_crs: str | None) -> tuple[str | None, str | None]:
    """The whole CRS and its horizontal part as WKT 2: the file's own, its sidecar's or the assumed one; else Nones."""
    try:
        if dataset.crs:
            wkt = dataset.crs.to_wkt(version="WKT2_2019")
        elif beside is not None:
            wkt = _crs_in_file(beside).to_wkt()
        elif assume_crs is not None:
            wkt = coordinates.parse_crs(assume_crs).to_wkt()
        else:
            return None, None
        return wkt, coordinates.horizontal(pyproj.CRS.from_wkt(wkt)).to_wkt()
    except (CRSError, ProjError) as error:
        raise InputError(f"{show(file)}: its CRS is not understood: {show(error)}") from error


def _crs_in_file(text: str) -> pyproj.CRS:
    """A CRS that a sidecar names; as with one that a person typed, neither files nor URLs are opened."""
    try:
        return coordinates.parse_crs(text)
    except UsageError as error:
        raise CRSError(str(error)) from error


def _find_grid(file: Path, dataset: Any, beside: Affine | None, crs: str | None) -> tuple[GeoBox, bool]:
    """The grid, the file's own or its sidecar's, and whether the file is placed at all."""
    affine = dataset.transform if _placed(dataset) else beside or dataset.transform
    if affine == Affine.identity():
        if dataset.gcps[0] or dataset.tags(ns="RPC"):
            kind = "ground control points" if dataset.gcps[0] else "RPCs"
            raise InputError(f"{show(file)}: is placed by {kind} only; orthorectify it first: gdalwarp in.tif out.tif")
        if dataset.crs:
            raise InputError(f"{show(file)}: names a CRS but no position or pixel size; georeference it first")
    numbers = np.array(affine[:6])
    rows, cols = dataset.shape
    step = min(math.hypot(affine.a, affine.d), math.hypot(affine.b, affine.e))
    if not np.isfinite(numbers).all() or np.abs(numbers).max() * max(rows, cols) > 1e15:
        raise InputError(f"{show(file)}: its position is not a usable number ({show(tuple(numbers))})")
    if step < 1e-11 or abs(affine.determinant) < 1e-9 * step * step:
        raise InputError(f"{show(file)}: its pixels have no area (pixel size {step:g}); correct its georeferencing")
    return GeoBox((rows, cols), affine, crs), bool(crs or affine != Affine.identity())


def _placed(dataset: Any) -> bool:
    return bool(dataset.transform != Affine.identity() or dataset.gcps[0])


def _declared(dataset: Any, sidecar: Sidecar, band: int) -> float | None:
    """A band's nodata value, the file's or else its sidecar's."""
    own: float | None = dataset.nodatavals[band - 1]
    return sidecar.nodata.get(band) if own is None else own


def _sidecar_notes(file: Path, dataset: Any, sidecar: Sidecar, bands: Sequence[int]) -> Iterator[str]:
    """What is taken from the sidecar, and what is not for the file says otherwise."""
    name, there = show(file.name), show(sidecar.path.name)
    first, dtype = sidecar.nodata.get(bands[0]), dataset.dtypes[bands[0] - 1]
    parts = [
        ("nodata value", first, dataset.nodatavals[bands[0] - 1], first is None or value_text(first, dtype)),
        ("position", sidecar.affine, dataset.transform if _placed(dataset) else None, "it"),
        ("CRS", sidecar.crs, dataset.crs or None, "it"),
    ]
    ignored = [*sidecar.others]
    for what, beside, own, shown in parts:
        if beside is not None and own is None:
            yield f"{name} has no {what} of its own: {shown} is taken from {there}"
        elif beside is not None and not _agree(beside, own):
            ignored.append(what)
    if ignored:
        verb = "is" if len(ignored) == 1 else "are"
        yield f"{', '.join(ignored)} in {there} {verb} ignored: {name} itself takes precedence"


def _agree(beside: Any, own: Any) -> bool:
    """Whether a sidecar says what the file says itself."""
    if isinstance(beside, str):
        with suppress(CRSError, ProjError):
            return bool(_crs_in_file(beside).equals(pyproj.CRS.from_wkt(own.to_wkt()), ignore_axis_order=True))
        return False
    if isinstance(beside, Affine):
        return bool(beside.almost_equals(own))
    return bool(beside == own or (math.isnan(beside) and math.isnan(own)))


def _nodata_notes(file: Path, nodatas: Sequence[float | None], dtype: str) -> Iterator[str]:
    """A warning where a nodata value cannot occur."""
    if np.dtype(dtype).kind == "f":
        return
    info = np.iinfo(dtype)
    for nodata in dict.fromkeys(nodatas):
        if nodata is None or math.isnan(nodata):
            continue
        if not (info.min <= nodata <= info.max and float(nodata).is_integer()):
            text = value_text(nodata, dtype)
            yield f"{show(file.name)}: the nodata value {text} cannot occur in {dtype}; no pixel is nodata by it"


def _short(text: str | None) -> str | None:
    return show(text) if text else None


def _read_tags(file: Path, dataset: Any, band: int) -> tuple[dict[str, str], dict[str, str], tuple[str, ...]]:
    """Tags of the file and the band that still hold for other pixels; none, with a warning, if they are huge."""
    both = tuple(
        {k: v for k, v in tags.items() if not k.startswith("STATISTICS_") and not k.endswith(_STALE_TAGS)}
        for tags in (dataset.tags(), dataset.tags(band))
    )
    size = sum(len(k) + len(v) for tags in both for k, v in tags.items())
    if size > MAX_TAG_BYTES:
        return {}, {}, (f"{show(file.name)}: {size >> 20} MiB of metadata tags are left out",)
    return both[0], both[1], ()


def _read_palette(dataset: Any, bands: tuple[int, ...]) -> tuple[tuple[int, int, int, int], ...] | None:
    if len(bands) != 1 or dataset.colorinterp[bands[0] - 1] != ColorInterp.palette:
        return None
    colours = dataset.colormap(bands[0])
    return tuple(tuple(colours.get(i, (0, 0, 0, 0))) for i in range(max(colours) + 1))


def _opaque(dataset: Any, alpha: int | None) -> float:
    """Full opacity of the alpha band: of 1, 255 and 65535 the smallest that holds its values.

    Real uint16 files have alpha from 0 to 255, so the type does not tell. Files so large that `check_readable` does
    not read them through are looked at thinned out, at 512 x 512 pixels of them.
    """
    if alpha is None:
        return 255.0
    small = math.prod(dataset.shape) * (dataset.count - 1) <= SMALL
    rows, cols = dataset.shape if small else (min(n, 512) for n in dataset.shape)
    top = float(np.nanmax(dataset.read(alpha, out_shape=(rows, cols), resampling=Resampling.nearest)))
    return next((full for full in (1.0, 255.0) if top <= full), 65535.0)


def _has_mask(flags: list[MaskFlags]) -> bool:
    """A mask band of its own: neither "all valid", nor made from nodata, nor from alpha."""
    return not {MaskFlags.all_valid, MaskFlags.nodata, MaskFlags.alpha} & set(flags)
