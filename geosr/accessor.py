"""Arrays in, arrays out: `upscale` and `evaluate` for paths and DataArrays, and `DataArray.geosr.upscale`.

Loaded as soon as both geosr and xarray are, so the imports at its top are light.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from inspect import signature
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import xarray as xr

from geosr.bands import ALL, Band
from geosr.consistency import Consistency
from geosr.errors import GeosrError, InputError, OutputError, UsageError
from geosr.events import Event, Note
from geosr.options import DEVICES, DTYPES, FITS, Bounds, Execution, Inputs, Recipe

if TYPE_CHECKING:
    from geosr.evaluation import Evaluation

_DOWN, _ACROSS = ("y", "lat", "latitude", "northing"), ("x", "lon", "long", "longitude", "easting")
"""Names of dimensions that are y and x, in small letters; rioxarray knows the first by themselves only."""

_VALUE = "|".join((r"-?\d", "-?nan", "-?inf", "[A-Z]{3}", *FITS, *DEVICES, *DTYPES, "threads", "processes"))
_COMMAND = r"geosr [a-z]+(?: --?[a-z][\w-]*(?: [^\s()-][^\s()]*)?)*"
_OPTION = re.compile(rf"{_COMMAND}|(?<![^\s(])--([a-z][a-z-]*)(?: (?={_VALUE}))?")
"""A whole command, or an option in a message with the space before a value that follows it."""
_RENAMED = {"min": "minimum=", "max": "maximum=", "set": "settings="} | {
    flag: f"{flag.replace('-', '_')}=True" for flag in ("allow-ballpark", "coregister", "overwrite", "style")
}
"""Options that have not the name of an argument, or no value."""

_ROLES = ("source", "guide", "prediction", "truth")

Value = TypeVar("Value")
Rasterlike = str | os.PathLike[str] | xr.DataArray


def upscale(
    source: Rasterlike,
    guide: Rasterlike,
    scale: int = 4,
    method: str = "mmsr",
    *,
    output: str | os.PathLike[str] | None = None,
    preset: str = "default",
    settings: Mapping[str, Any] | None = None,
    weights: str | os.PathLike[str] | None = None,
    consistency: str | None = None,
    band: Band | None = None,
    source_nodata: float | None = None,
    guide_nodata: float | None = None,
    assume_crs: object = None,
    allow_ballpark: bool = False,
    bounds: Bounds | None = None,
    coregister: bool = False,
    guide_shift: tuple[float, float] | None = None,
    native_resolution: float | None = None,
    tile: int | None = None,
    fit: str | None = None,
    seed: int = 0,
    minimum: float | None = None,
    maximum: float | None = None,
    dtype: npt.DTypeLike = "float32",
    compress: str = "deflate",
    device: str = "auto",
    workers: int | None = None,
    scheduler: str = "threads",
    gpus: str | None = None,
    batch: int | None = None,
    tile_timeout: float | None = None,
    overwrite: bool = False,
    on_tile_error: str = "fail",
    report: str | os.PathLike[str] | None = None,
    uncertainty: str | os.PathLike[str] | None = None,
    guide_influence: str | os.PathLike[str] | None = None,
    style: bool = False,
    on_event: Callable[[Event], None] = lambda event: None,
) -> xr.DataArray:
    """The source at `scale` times its resolution, sharpened with the guide.

    The output's grid is the source's, each pixel cut into scale x scale: same CRS, same corner, rotation
    included. Averaged over a source pixel it is the source (with `consistency="exact"`). Source pixels
    that are nodata stay nodata; where the guide is missing the source is interpolated.

    Args:
        source: path, or two-dimensional (or one-band) rioxarray DataArray: heights, temperatures, ...
            Scale and offset are applied: values are physical. Dask-backed arrays are read chunk by chunk.
        guide: path or DataArray (band, y, x) of the same ground, any bands, CRS, resolution and extent.
        scale: output pixels to one source pixel along a side, 2 to 32.
        method: `mmsr` (Dong et al., ECCV 2022) or another name that `geosr methods` lists.
        output: a GeoTIFF to write as well; only memory when None.
        preset: the method's set of settings.
        settings: single settings of the method, over the preset's.
        weights: file of a trained network's, for a method that is one; `geosr train` makes them.
        consistency: `exact`, `soft:SIGMA` (within SIGMA, in the source's units), `off`; None for the
            preset's own: exact, but off in the paper presets.
        band: which band of a multi-band source file, counted from 1, its wavelength as in `8.2um` and `865nm`, or
            `all`: the result is (band, y, x) then.
        source_nodata: a value to be taken as nodata in the source, beside what it declares.
        guide_nodata: the same for the guide.
        assume_crs: CRS of the raster that has none, in any form that pyproj reads.
        allow_ballpark: accept a datum shift of unknown accuracy between the two CRS.
        bounds: (left, bottom, right, top) in the source's CRS, widened to whole source pixels.
        coregister: estimate how far the guide is off from what the two show, as a whole and locally,
            and move the guide by it.
        guide_shift: (x, y) to move the guide by first, in the units of the source's CRS, where it is known to be off.
        native_resolution: metres that the source's sensor resolves, where its file has smaller pixels: they are first
            averaged to that, to the nearest whole number of them, and `scale` counts from there.
        tile: side of a tile in output pixels at most, halo included; 320, or the least for method and scale, when None.
        fit: the method once on some tiles of the `scene`, or on each `tile`; None takes what suits the preset.
        seed: of all random numbers; the same call twice gives the same bytes on one CPU.
        minimum: smallest value that the output may have, in the source's units; means over source pixels stay.
        maximum: largest one.
        dtype: of the output: float32, float64, int16, int32, uint8 or uint16.
        compress: of `output`: deflate or zstd.
        device: `auto`, `cpu` or `cuda`.
        workers: tiles in progress at once; never changes the result.
        scheduler: `threads`; `processes`, which survive each other (call from under `if __name__ == "__main__"`);
            or `tcp://HOST:PORT` of a Dask scheduler whose workers see the same files.
        gpus: `all`, or numbers as in `0,1`: one worker process each, with `scheduler="processes"`.
        batch: tiles that are fitted together with `fit="tile"`; None takes what a GPU has memory for, 1 on the CPU.
        tile_timeout: seconds without progress after which a worker process is ended as hung; None follows the slowest.
        overwrite: replace an existing `output`.
        on_tile_error: `fail`, or `interpolate` for tiles that fail to hold the interpolated source; the attribute
            GEOSR_INTERPOLATED_TILES names them then.
        report: a JSON file or a page (`.html`) to write that says what was done; one that exists is replaced.
        uncertainty: a GeoTIFF to write of the output's standard deviation, in its units.
        guide_influence: a GeoTIFF to write of what the guide changed against the interpolated source.
        style: write a QGIS style beside `output`.
        on_event: called with notes and progress (`geosr.events.Event`).

    Returns:
        (y, x) DataArray in memory, called as a source that is a DataArray, with CRS, transform and the output's tags as
        attributes. Invalid pixels are NaN in a float array (what nodata value a file has for them is in
        `rio.encoded_nodata`) and the nodata value in an integer one.

    Raises:
        UsageError: an argument of the wrong kind or out of range, an output that exists or is an input.
        InputError: a raster is refused, or the two do not fit.
        UnavailableError: no such method or device.
        TileError: tiles failed; nothing was written. With an `output`, of paths the others are kept for
            the same call again.
        OutputError: the output could not be written, or another run is making it.
    """
    from geosr import multiband, pipeline  # with rasterio: not before there is something to do

    if style and output is None:
        raise UsageError("a style lies beside its output; give an output as well")
    if not callable(on_event):
        raise UsageError(f"on_event is {on_event!r}; it must be a function that takes an event")
    with _workplace() as folder:
        recipe = Recipe(
            method=_text("method", method),
            preset=_text("preset", preset),
            settings=_settings(settings),
            consistency=None if consistency is None else Consistency.parse(str(consistency)),
            tile=_given(_whole, "tile", tile),
            fit=fit,
            seed=_whole("seed", seed),
            dtype=_type_name(dtype),
            compress=compress,
            weights=_given(_path, "weights", weights),
            minimum=_given(_number, "minimum", minimum),
            maximum=_given(_number, "maximum", maximum),
        )
        execution = Execution(
            device,
            _given(_whole, "workers", workers),
            _text("scheduler", scheduler),
            overwrite,
            on_tile_error,
            report=_given(_path, "report", report),
            influence=_given(_path, "guide_influence", guide_influence),
            uncertainty=_given(_path, "uncertainty", uncertainty),
            on_event=lambda event: on_event(_spoken(event)),
            tile_timeout=_given(_number, "tile_timeout", tile_timeout),
            gpus=_given(_text, "gpus", gpus),
            style=style,
            batch=_given(_whole, "batch", batch),
        )
        inputs = Inputs(
            _on_disk(source, folder, "source"),
            _on_disk(guide, folder, "guide"),
            _whole("scale", scale),
            _given(_band, "band", band),
            _given(_number, "source_nodata", source_nodata),
            _given(_number, "guide_nodata", guide_nodata),
            _crs_text(assume_crs),
            allow_ballpark,
            _given(_four, "bounds", bounds),
            coregister,
            _given(_two, "guide_shift", guide_shift),
            _given(_number, "native_resolution", native_resolution),
        )
        path = _given(_path, "output", output) or folder / "result.tif"
        if band == ALL:
            multiband.upscale_bands(inputs, recipe, execution, path)
        else:
            pipeline.upscale_file(inputs, recipe, execution, path)
        made = _load(path, masked=np.dtype(dtype).kind == "f")
    return made.rename(source.name) if isinstance(source, xr.DataArray) else made


def evaluate(
    prediction: Rasterlike,
    truth: Rasterlike,
    *,
    source: Rasterlike | None = None,
    guide: Rasterlike | None = None,
    band: int | str | None = None,
    elevation: bool = False,
    step: float | None = None,
    assume_crs: object = None,
) -> Evaluation:
    """Measure a prediction against the truth, over the pixels that are valid in both, as `geosr evaluate` does.

    Two rasters on one pixel grid are compared as they are; otherwise the one with the larger pixels sets the grid.

    Args:
        prediction: path, or rioxarray DataArray of one band. Scale and offset are applied.
        truth: of the same ground. The prediction is converted to its units where both name theirs.
        source: what the prediction was made from; gives the source consistency.
        guide: what it was made with; tells how much of its texture is in the errors.
        band: of those of prediction, truth and source that have several; a number, or a wavelength as in `8.2um`.
        elevation: the values are heights, in metres unless a unit is named; gives errors of slope and aspect.
        step: height of an edge in the truth's units; by the truth's own steps when None.
        assume_crs: CRS of the rasters that have none, in any form that pyproj reads.

    Returns:
        `scores` (`geosr.metrics.Scores`: `rmse`, `nmad`, `ssim`, ...; None for what cannot be told), `units`, `notes`.

    Raises:
        InputError: a raster is refused, or the two have no valid pixel in common.
        UsageError: an argument makes no sense.
    """
    from geosr.evaluation import evaluate as measure

    with _workplace() as folder:
        given = {"prediction": prediction, "truth": truth, "source": source, "guide": guide}
        paths = {role: _on_disk(each, folder, role) for role, each in given.items() if each is not None}
        found = measure(
            **paths,
            band=_given(_band, "band", band),
            elevation=elevation,
            step=_given(_number, "step", step),
            assume_crs=_crs_text(assume_crs),
        )
    return replace(found, notes=tuple(map(_in_python, found.notes)))


@contextmanager
def _workplace() -> Iterator[Path]:
    """A temporary folder; errors do not say where it lies, and call options by the names of arguments."""
    with tempfile.TemporaryDirectory(prefix="geosr-") as folder:
        inside = re.compile(rf"{re.escape(folder + os.sep)}(?:(?:{'|'.join(_ROLES)}){re.escape(os.sep)})?")
        try:
            yield Path(folder)
        except GeosrError as error:
            error.args = tuple(_in_python(inside.sub("", str(text))) for text in error.args)
            notes = (note for note in getattr(error, "__notes__", ()) if folder not in note)  # soon it is gone
            error.__notes__ = [_in_python(note) for note in notes]
            raise


def _in_python(text: str) -> str:
    """A message of the command line in the words of Python: `--native-resolution 30` as `native_resolution=30`."""
    return _OPTION.sub(_argument, text)


def _argument(found: re.Match[str]) -> str:
    """An option as an argument; what is none of `upscale` or `evaluate`, as in a file's name, stays as it is."""
    name = found[1] or ""
    known = name.replace("-", "_") in {*signature(upscale).parameters, *signature(evaluate).parameters}
    return _RENAMED.get(name) or (f"{name.replace('-', '_')}=" if known else found[0])


def _spoken(event: Event) -> Event:
    """The event, a note in the words of Python."""
    return Note(_in_python(event.text)) if isinstance(event, Note) else event


def _given(read: Callable[[str, Any], Value], name: str, value: object) -> Value | None:
    """What `read` makes of an argument that may be left out."""
    return None if value is None else read(name, value)


def _whole(name: str, value: object) -> int:
    """A whole number of any type."""
    whole = isinstance(value, Integral) or (isinstance(value, float | np.floating) and float(value).is_integer())
    if isinstance(value, bool) or not whole:
        raise UsageError(f"{name} is {value!r}; it must be a whole number")
    return int(cast(int, value))


def _number(name: str, value: Any) -> float:
    """A number of any type, arrays without dimensions among them; text is none, nor is a truth value."""
    if not isinstance(value, str | bytes | bool | np.bool_):
        with suppress(TypeError, ValueError, OverflowError):
            return float(value)
    raise UsageError(f"{name} is {value!r}; it must be a number")


def _four(name: str, values: Any) -> Bounds:
    left, bottom, right, top = _numbers(name, values, "(left, bottom, right, top)")
    return left, bottom, right, top


def _two(name: str, values: Any) -> tuple[float, float]:
    x, y = _numbers(name, values, "(x, y)")
    return x, y


def _numbers(name: str, values: Any, wanted: str) -> list[float]:
    """As many as are wanted."""
    with suppress(TypeError, UsageError):
        numbers = [_number(name, value) for value in values]
        if len(numbers) == wanted.count(",") + 1:
            return numbers
    raise UsageError(f"{name} is {values!r}; it must be {wanted}, in numbers")


def _band(name: str, value: object) -> Band:
    return value if isinstance(value, str) else _whole(name, value)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{name} is {value!r}; it must be text")
    return value


def _path(name: str, value: Any) -> Path:
    """Of a file; a leading ~ is the user's home."""
    try:
        return Path(os.path.expanduser(value))
    except TypeError as error:
        raise UsageError(f"{name} is {value!r}; it must be a path") from error


def _settings(settings: Mapping[str, Any] | None) -> dict[str, Any]:
    if not isinstance(settings, Mapping | None):
        raise UsageError(f"settings is {settings!r}; it must be a mapping, as {{'epochs': 200}}")
    return dict(settings or {})


def _type_name(dtype: npt.DTypeLike) -> str:
    try:
        return np.dtype(dtype).name
    except (TypeError, ValueError) as error:
        raise UsageError(f"dtype is {dtype!r}; that is no type of numbers") from error


def _crs_text(crs: object) -> str | None:
    """What pyproj makes of it, as WKT; text is read later, where what a person types is."""
    if crs is None or isinstance(crs, str):
        return crs
    import pyproj
    from pyproj.exceptions import CRSError

    try:
        return str(pyproj.CRS.from_user_input(crs).to_wkt())
    except CRSError as error:
        raise UsageError(f"assume_crs is {crs!r}, which names no CRS; give one like EPSG:32632, or WKT") from error


def _load(path: Path, *, masked: bool) -> xr.DataArray:
    import rioxarray

    result = rioxarray.open_rasterio(path, masked=masked)
    if not isinstance(result, xr.DataArray):
        raise TypeError(f"{path} was read as {type(result).__name__}")
    with result:
        return (result.squeeze("band", drop=True) if result.sizes["band"] == 1 else result).load()


def _on_disk(raster: Rasterlike, folder: Path, role: str) -> Path:
    """A path as it is; an array as a GeoTIFF in `folder`, a chunk at a time where Dask holds it."""
    if isinstance(raster, xr.Dataset):
        variable = next(iter(raster.data_vars), "name")
        raise UsageError(f"the {role} is a Dataset; pick a variable: ds[{variable!r}]")
    if not isinstance(raster, xr.DataArray):
        try:
            return Path(os.path.expanduser(raster))
        except TypeError as error:
            given = type(raster).__name__
            wanted = "a raster is a path, or a DataArray with coordinates and CRS"
            raise UsageError(f"{wanted}; this is a {given}") from error
    from rioxarray.exceptions import RioXarrayError

    from geosr.gdal import GDAL_ERRORS

    if raster.ndim not in (2, 3):
        raise InputError(f"a DataArray with dimensions {raster.dims} is no raster; expected (y, x) or (band, y, x)")
    if raster.dtype.kind not in "iuf":
        raise InputError(f"a DataArray of type {raster.dtype} is no raster; expected numbers")
    storing: tuple[type[Exception], ...] = (*GDAL_ERRORS, OSError)
    path = folder / role / _file_name(raster, role)
    try:
        path.parent.mkdir()
        raster = _with_spatial_dims(raster)
        _check_spacing(raster)
        # without a lock the whole array would be computed at once
        _as_stored(raster).rio.to_raster(path, driver="GTiff", BIGTIFF="IF_SAFER", lock=raster.chunks is not None)
    except (RioXarrayError, OverflowError) as error:  # the second of a nodata value that its type cannot hold
        name = f" {raster.name}" if raster.name else ""
        raise InputError(f"the DataArray{name} cannot be used as a raster: {error}") from error
    except storing as error:
        raise OutputError(f"cannot store an array in {folder}: {error}") from error
    return path


def _file_name(array: xr.DataArray, role: str) -> str:
    """By the array, or the file that it was read from: messages and tags name it."""
    name = str(array.name or Path(str(array.encoding.get("source", ""))).stem or role)
    return re.sub(r"[^\w.-]", "_", name)[:50] + ".tif"


def _with_spatial_dims(array: xr.DataArray) -> xr.DataArray:
    """The array with y and x last and known to rioxarray, where their names say which they are."""
    down, across = (
        next((name for name in array.dims if str(name).lower() in names), None) for names in (_DOWN, _ACROSS)
    )
    if down is None or across is None:
        return array
    placed: xr.DataArray = array.transpose(..., down, across).rio.set_spatial_dims(x_dim=across, y_dim=down)
    return placed


def _check_spacing(array: xr.DataArray) -> None:
    """Refuse coordinates that make no grid: a transform is made of their ends alone."""
    for name in (array.rio.x_dim, array.rio.y_dim):
        if name not in array.coords or array.sizes[name] < 2:
            continue
        positions = array.coords[name].to_numpy().astype(np.float64)
        even = np.linspace(positions[0], positions[-1], len(positions))
        if not np.abs(positions - even).max() < 0.01 * abs(even[1] - even[0]):
            raise InputError(f"the DataArray's {name} coordinates are not evenly spaced; put it on a regular grid")


def _as_stored(array: xr.DataArray) -> xr.DataArray:
    """The array with an encoding that loses nothing: its file's integers may no longer hold its values."""
    masked, nodata = array.rio.encoded_nodata, array.rio.nodata
    scaling = {k: v for k, v in array.encoding.items() if k in ("scale_factor", "add_offset")}
    small = np.float32 if array.dtype == np.float16 else array.dtype
    stored = array.astype(np.float64 if scaling else small, copy=False)
    stored.encoding = scaling
    if masked is not None:
        exact = np.isfinite(masked) and float(stored.dtype.type(masked)) == float(masked)
        stored.encoding["_FillValue"] = masked if exact else np.nan
    elif nodata is not None:
        stored.rio.set_nodata(nodata, inplace=True)
    stored.rio.set_spatial_dims(array.rio.x_dim, array.rio.y_dim, inplace=True)
    return stored


@xr.register_dataarray_accessor("geosr")
class Accessor:
    """`DataArray.geosr`."""

    def __init__(self, array: xr.DataArray) -> None:
        self._array = array

    def upscale(self, guide: Rasterlike, scale: int = 4, method: str = "mmsr", **options: Any) -> xr.DataArray:
        """`geosr.upscale` with this array as the source; see there for the options."""
        return upscale(self._array, guide, scale, method, **options)
