"""Where GDAL opens its datasets: its settings, one file, and its errors as the user's."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyproj
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError

from geosr import raster_guard as guard
from geosr.errors import GeosrError, InputError
from geosr.raster_guard import show

GDAL_ERRORS: tuple[type[Exception], ...] = (RasterioError, CPLE_BaseError)
"""What rasterio raises: its own tree, and GDAL's private one that it lets through (at close, for instance)."""

_CACHE_BYTES = 128 << 20  # rasterio hands the number to GDAL as bytes, whatever its size
_opening = threading.Lock()


def versions() -> dict[str, str]:
    """Versions of the libraries that read, warp and write."""
    return {
        "rasterio": rasterio.__version__,
        "GDAL": rasterio.__gdal_version__,
        "PROJ": rasterio.__proj_version__,
        "pyproj": pyproj.__version__,
    }


@contextmanager
def gdal_environment(cache: int = _CACHE_BYTES) -> Iterator[None]:
    """GDAL settings for all reading and writing: no sidecar metadata, no network, a bounded block cache (bytes)."""
    guard.check_environment()
    with rasterio.Env(
        GDAL_PAM_ENABLED="NO",
        GDAL_CACHEMAX=cache,
        CPL_VSIL_CURL_ALLOWED_EXTENSIONS=".none",
        GDAL_HTTP_MAX_RETRY=0,
    ):
        yield


@contextmanager
def translated(path: Path, doing: str) -> Iterator[None]:
    """Whatever GDAL, rasterio or PROJ raise becomes an `InputError` that names the file."""
    try:
        yield
    except GeosrError:
        raise
    except MemoryError as error:
        raise InputError(f"{show(path)}: cannot be {doing}: it needs more memory than there is") from error
    except Exception as error:
        raise InputError(f"{show(path)}: cannot be {doing}, it may be damaged: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """The innermost text of a chain of exceptions: GDAL's own words sit there."""
    texts: list[str] = []
    seen: BaseException | None = error
    while seen is not None:
        texts.append(str(seen))
        seen = seen.__cause__
    return show(next((text for text in reversed(texts) if text), type(error).__name__))


@contextmanager
def open_file(path: Path, driver: str, options: dict[str, str]) -> Iterator[Any]:
    """An open dataset, errors of opening translated."""
    with gdal_environment(), dataset_of(path, driver, options) as dataset:
        yield dataset


@contextmanager
def dataset_of(path: Path, driver: str, options: dict[str, str]) -> Iterator[Any]:
    """As `open_file`, inside `gdal_environment`."""
    with translated(path, f"opened as {guard.FORMATS[driver]}"), _opening, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the filters are global: one thread at a time
        dataset = rasterio.open(path, driver=driver, sharing=False, **options)
    with dataset:
        yield dataset
