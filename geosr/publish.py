"""An output's name: whether it may be taken, and a finished file getting it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from rasterio.errors import NotGeoreferencedWarning

from geosr.errors import OutputError, UsageError
from geosr.files import check_place
from geosr.gdal import GDAL_ERRORS
from geosr.published import published_before, remove_finished
from geosr.raster_guard import files_of, is_folder, is_utf8, show

_ENDINGS = {"GeoTIFF": (".tif", ".tiff"), "PNG": (".png",), "safetensors file": (".safetensors",)}
_FAILURES: tuple[type[Exception], ...] = (*GDAL_ERRORS, OSError)


def check_output(output: Path, inputs: Sequence[Path], *, overwrite: bool, form: str = "GeoTIFF") -> Path:
    """Where the output will really lie, links resolved, before any work is done.

    Where it exists and stays, what a run that made it and was killed left of its folder is removed.

    Raises:
        UsageError: it is no name for a file of that form, is one of the inputs or lies in one that is a folder, or
            exists and `overwrite` is not given.
        OutputError: as `check_place`, or a GeoTIFF's path is not UTF-8.
    """
    name, path = show(output), check_place(output)
    if path.suffix.lower() not in _ENDINGS[form]:
        raise UsageError(f"{name}: a {form} is written; give a name that ends in {_ENDINGS[form][0]}")
    if form == "GeoTIFF":
        check_utf8(path)
    exists = path.exists()
    if exists and any(_is_same(path, file) for other in inputs for file in files_of(other)):
        raise UsageError(f"the output {name} is one of the inputs; give it another name")
    if any(is_folder(other) and os.path.samefile(path.parent, other) for other in inputs):
        raise UsageError(f"the output {name} would lie among the rasters of an input; give another folder")
    if overwrite:
        return path
    if os.path.lexists(path):  # a link that leads round in a circle to itself leads to no file
        remove_finished(path)
        raise UsageError(f"{name} exists; use --overwrite to replace it")
    if form == "GeoTIFF" and (beside := next((file for file in _beside(path) if os.path.lexists(file)), None)):
        raise UsageError(
            f"{show(beside)} is left from an earlier {show(path.name)}, and GDAL would read it for the new one; "
            "remove it, or use --overwrite"
        )
    return path


def check_own_output(output: Path, inputs: Sequence[Path], *, overwrite: bool, form: str = "GeoTIFF") -> Path:
    """As `check_output`, of an output with a run folder: one that a run was killed after naming is its own to end."""
    path = Path(os.path.realpath(output))
    return check_output(output, inputs, overwrite=overwrite or path in published_before(path), form=form)


def check_utf8(path: Path) -> None:
    """See that GDAL can write there.

    Raises:
        OutputError: it cannot.
    """
    if not is_utf8(path):
        raise OutputError(f"{show(path)} cannot be written: its path is not UTF-8; rename the folder or the file")


def _is_same(path: Path, other: Path) -> bool:
    return os.path.exists(other) and os.path.samefile(path, other)


def _beside(path: Path) -> list[Path]:
    """Files that GDAL reads with a GeoTIFF of that name, if they are there."""
    return [path.with_name(path.name + suffix) for suffix in (".aux.xml", ".msk", ".ovr")]


def publish(finished: Path, output: Path, *, overwrite: bool) -> None:
    """Give a finished file its name, at once or not at all, and on disk.

    Raises:
        OutputError: a file of that name has appeared, which is left alone.
        OSError: there is no permission.
    """
    _sync(finished)
    if overwrite:
        finished.replace(output)
        for file in filter(os.path.lexists, _beside(output)):  # of the file that was replaced
            file.unlink(missing_ok=True)
    else:
        try:
            _name(finished, output)
        except FileExistsError as error:
            raise OutputError(f"{output} appeared while this run was at work; it was left alone") from error
    with suppress(OSError):  # the file is there; not every system can sync a folder
        _sync(output.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _name(finished: Path, output: Path) -> None:
    """Give `finished` the name `output`; `FileExistsError` if that name is taken."""
    try:
        os.link(finished, output)  # unlike a rename it never replaces what appeared meanwhile
    except FileExistsError:
        raise
    except OSError:  # a file system without links (FAT, some network shares): a look before is the best there is
        if os.path.lexists(output):
            raise FileExistsError(output) from None
        finished.rename(output)


@contextmanager
def reported_as(output: Path) -> Iterator[None]:
    """Whatever GDAL or the system refuse becomes an `OutputError` that names the output."""
    try:
        with warnings.catch_warnings():  # a grid of unit pixels at the origin is as good as any
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            yield
    except OutputError:
        raise
    except _FAILURES as error:
        reason = error.__cause__ or error
        raise OutputError(f"{output} was not written: {reason}") from error
