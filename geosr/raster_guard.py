"""What is decided about a file before GDAL sees it: is it a plain local file, of which format, which sidecars.

GDAL opens far more than rasters: URLs, XML given as a name, VRTs that name any other file (also when they
are called `.tif`). So the path and the first bytes are judged here, in plain Python, and GDAL is told the one
driver that may open the file.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from pathlib import Path

from geosr.digests import begun
from geosr.errors import InputError, UsageError

FORMATS = {
    "GTiff": "GeoTIFF",
    "PNG": "PNG",
    "JPEG": "JPEG",
    "JP2OpenJPEG": "JPEG 2000",
    "netCDF": "netCDF",
    "HFA": "Erdas Imagine",
    "DTED": "DTED",
    "AAIGrid": "Arc/Info ASCII grid",
    "SRTMHGT": "SRTM .hgt",
    "ENVI": "ENVI",
}
SUPPORTED = ", ".join(FORMATS.values())

_MAGIC = (
    (b"II*\0", "GTiff"),
    (b"MM\0*", "GTiff"),
    (b"II+\0", "GTiff"),
    (b"MM\0+", "GTiff"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"\0\0\0\x0cjP  \r\n", "JP2OpenJPEG"),
    (b"\xff\x4f\xff\x51", "JP2OpenJPEG"),
    (b"CDF\x01", "netCDF"),
    (b"CDF\x02", "netCDF"),
    (b"CDF\x05", "netCDF"),
    (b"\x89HDF\r\n\x1a\n", "netCDF"),
    (b"EHFA_HEADER_TAG", "HFA"),
    (b"UHL1", "DTED"),
)
_EXTENSIONS = {
    ".tif": "GTiff",
    ".tiff": "GTiff",
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jp2": "JP2OpenJPEG",
}
_CONVERTIBLE = {
    ".gpkg": "GeoPackage",
    ".mbtiles": "MBTiles",
    ".grb": "GRIB",
    ".grib": "GRIB",
    ".grb2": "GRIB",
    ".grib2": "GRIB",
    ".grd": "a Surfer or R grid",
    ".map": "PCRaster",
    ".ntf": "NITF",
    ".pix": "PCIDSK",
    ".rst": "Idrisi",
    ".sdat": "a SAGA grid",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".webp": "WebP",
    ".xyz": "XYZ text",
}
"""Formats that are not read here, by endings that tell them: rasterio brings what converts them."""
_IN_FOLDERS = {
    "GTiff": (".tif", ".tiff"),
    "JP2OpenJPEG": (".jp2",),
    "HFA": (".img",),
    "AAIGrid": (".asc",),
    "SRTMHGT": (".hgt",),
    "DTED": (".dt0", ".dt1", ".dt2"),
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg"),
}
MAX_CLAIM = 100_000
"""Times its own size that a file may claim in pixels, beyond a gibibyte: deflate reaches 1032, sparse files more."""
PICTURES = ("PNG", "JPEG")
"""Formats that cannot hold a CRS, and a position only in a world file."""
_MOST_FILES = 10_000
_FEW = 4
_HGT_SIDES = (1201, 3601, 7201)
_ENVI_ENDINGS = ("", ".img", ".dat", ".bin", ".bsq", ".bil", ".bip", ".raw", ".rdn", ".rfl", ".envi")
_WORLD_FILES = {
    "GTiff": (".tfw", ".tifw", ".wld"),
    "PNG": (".pgw", ".pngw", ".wld"),
    "JPEG": (".jgw", ".wld"),
}

WORLD_ENDINGS = frozenset(ending for endings in _WORLD_FILES.values() for ending in endings)

Fingerprint = tuple[int, int, int]
"""Size in bytes, modification time in nanoseconds, inode: what a file was when it was described."""


def show(text: object, limit: int = 200) -> str:
    """`text` of a file made safe for a message: one line, control characters escaped, at most `limit` long."""
    line = re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda m: f"\\x{ord(m.group()):02x}", " ".join(str(text).split()))
    return line if len(line) <= limit else line[: limit - 3] + "..."


def check_environment() -> None:
    """Refuse to run where GDAL was told to execute code it finds in rasters or plugins, or to misplace rasters.

    Raises:
        UsageError: naming the environment variable.
    """
    python = os.environ.get("GDAL_VRT_ENABLE_PYTHON", "NO").upper()
    if python not in ("", "NO", "FALSE", "OFF", "0"):
        raise UsageError(f"GDAL_VRT_ENABLE_PYTHON={show(python, 40)} lets rasters run code; unset it")
    if os.environ.get("GDAL_DRIVER_PATH", "disable") not in ("", "disable"):
        raise UsageError("GDAL_DRIVER_PATH loads code into GDAL; unset it")
    # even NO is harmful: once it is set (GDAL 3.10), world files are read although only INTERNAL is allowed
    if os.environ.get("GTIFF_POINT_GEO_IGNORE"):
        raise UsageError("GTIFF_POINT_GEO_IGNORE moves pixel-is-point rasters by half a pixel; unset it")


def claims_too_much(claimed: int, size: int) -> bool:
    """Whether so many bytes of pixels cannot honestly be in so many of files."""
    return claimed > 1 << 30 and claimed > MAX_CLAIM * size


def fingerprint(path: Path) -> Fingerprint:
    """Size, modification time and inode of `path`."""
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"{show(path)}: cannot be read: {error.strerror}") from error
    return status.st_size, status.st_mtime_ns, status.st_ino


def digest_of_parts(path: Path) -> str:
    """A digest of parts of a file spread evenly over it, both ends included: cheap however large the file is.

    With size and modification time it tells whether a file is the one of before, but for a change that keeps both
    and lies between the parts.
    """
    digest, parts, length = begun(), 16, 1 << 16
    try:
        with path.open("rb") as file:
            last = max(file.seek(0, os.SEEK_END) - length, 0)
            for part in range(parts):
                file.seek(last * part // (parts - 1))
                digest.update(file.read(length))
    except OSError as error:
        raise InputError(f"{show(path)}: cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def is_utf8(path: Path | str) -> bool:
    """Whether GDAL can be given the path: rasterio passes it on as UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def local_file(path: str | os.PathLike[str]) -> Path:
    """`path` if it names a regular, readable, non-empty local file.

    Raises:
        InputError: for URLs, `/vsi` paths, subdataset strings, XML, missing files, folders, devices, empty files, and
            paths that are not UTF-8.
    """
    text = os.fspath(path)
    if not isinstance(text, str) or not text or "\0" in text:
        raise InputError("a raster's path must be text that names a local file")
    if text.lstrip().startswith("<"):
        raise InputError("the path is XML (an inline VRT?); give a file: VRTs are not opened")
    if text.replace("\\", "/").lstrip("/").lower().startswith("vsi") and text.startswith("/"):
        raise InputError(f"{show(text)}: GDAL's /vsi paths are not opened; download or unpack the file first")
    if not os.path.exists(text) and re.match(r"^[A-Za-z][A-Za-z0-9_+.-]+:", text):
        url = re.sub(r"^([a-z][a-z0-9+.-]+:)/(?=[^/])", r"\1//", text)  # `Path` takes one of two slashes away
        raise InputError(f"{show(url)}: only local files are opened, no URLs and no subdataset strings")
    found = Path(text)
    if not is_utf8(found.absolute()):
        raise InputError(f"{show(found.absolute())}: its path is not UTF-8, and cannot be opened; rename it")
    try:
        status = found.stat()
    except OSError as error:
        pattern = "; patterns are not looked up: give the folder of the files" if set("*?") & set(text) else ""
        raise InputError(f"{show(text)}: cannot be read: {error.strerror}{pattern}") from error
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{show(text)}: is a folder; give a raster file")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{show(text)}: is not a regular file")
    if status.st_size == 0:
        raise InputError(f"{show(text)}: the file is empty (0 bytes)")
    return found.absolute()


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether `path` names a folder; what is no path at all is none."""
    try:
        return os.path.isdir(path)
    except (TypeError, ValueError):
        return False


def rasters_in(folder: Path) -> list[Path]:
    """The rasters in `folder`, by name; hidden files, files of other kinds and what its folders hold are passed over.

    They are GeoTIFF, JPEG 2000, Erdas Imagine, ASCII grid, SRTM or DTED files, by their names' endings. PNG and JPEG
    files without a world file are pictures of those where there are any.

    Raises:
        InputError: the folder cannot be read, or holds no raster, several kinds of them, or more than 10 000.
    """
    names = _names_in(folder)
    found = {
        kind: [folder / name for name in names if name.lower().endswith(_IN_FOLDERS[kind])] for kind in _IN_FOLDERS
    }
    if any(files for kind, files in found.items() if kind not in PICTURES):
        found |= {kind: [file for file in found[kind] if world_file(file, kind)] for kind in PICTURES}
    kinds = {kind: files for kind, files in found.items() if files}
    if not kinds:
        inside = folders_with_rasters(folder)
        where = f": those in its folders ({', '.join(map(show, inside))}) are not read" if inside else ""
        raise InputError(
            f"{show(folder)}: is a folder without rasters{where}\n"
            "give a raster file, or a folder of files of one kind: "
            f"{', '.join(FORMATS[kind] for kind in _IN_FOLDERS)}"
        )
    if len(kinds) > 1:
        counts = " and ".join(f"{len(files)} {FORMATS[kind]} files" for kind, files in kinds.items())
        raise InputError(f"{show(folder)}: holds {counts}; put those that are meant into a folder of their own")
    (files,) = kinds.values()
    if len(files) > _MOST_FILES:
        raise InputError(f"{show(folder)}: holds {len(files)} rasters; at most {_MOST_FILES} are taken for one")
    return files


def folders_with_rasters(folder: Path) -> list[str]:
    """Names of the folders in `folder` that hold files with a raster's ending, the first few."""
    endings = tuple(ending for kind in _IN_FOLDERS.values() for ending in kind)
    found: list[str] = []
    with suppress(InputError):
        for name in _names_in(folder)[:_MOST_FILES]:
            if len(found) < _FEW and is_folder(folder / name):
                found += [name] if any(file.lower().endswith(endings) for file in _names_in(folder / name)) else []
    return found


def _names_in(folder: Path) -> list[str]:
    """What lies in it and is not hidden, in order."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise InputError(f"{show(folder)}: cannot be read: {error.strerror}") from error


def files_of(path: Path) -> list[Path]:
    """The path itself, or a folder's rasters.

    Raises:
        InputError: as `rasters_in`.
    """
    return rasters_in(path) if is_folder(path) else [path]


def find_driver(path: Path) -> str:
    """The one GDAL driver that may open `path`, from its content.

    Raises:
        InputError: not a supported format, or the name says one format and the content is another.
    """
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise InputError(f"{show(path)}: cannot be read: {error.strerror}") from error
    if head.startswith(b"version https://git-lfs"):
        raise InputError(f"{show(path)}: is a Git LFS pointer, not the raster; fetch it with 'git lfs pull'")
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise InputError(
            f"{show(path)}: is XML (a VRT?), which may point at any other file; give the folder of its files, or, if "
            "you trust it, convert it to GeoTIFF: rio convert in.vrt out.tif"
        )
    driver = next((name for magic, name in _MAGIC if head.startswith(magic)), None) or _find_by_text(path, head)
    if driver is None:
        raise InputError(f"{show(path)}: not a supported raster{_remedy(path)}")
    named = _EXTENSIONS.get(path.suffix.lower(), driver)
    if named != driver:
        raise InputError(
            f"{show(path)}: named {path.suffix} but its content is {FORMATS[driver]}; "
            "check where it comes from, or rename it"
        )
    return driver


def _remedy(path: Path) -> str:
    """What is read instead, and what to do with a file of a format that is not."""
    ending = path.suffix.lower()
    if kind := _CONVERTIBLE.get(ending):
        return f", but {kind} by its name; supported are {SUPPORTED}; convert it: rio convert in{ending} out.tif"
    header = _is_envi_header(path.with_suffix(".hdr"), path)
    hint = f"; if it is ENVI data, call its header {show(path.name)}.hdr" if header else ""
    return f"; supported are {SUPPORTED}{hint}"


def _find_by_text(path: Path, head: bytes) -> str | None:
    """Formats without a magic number: DTED behind a tape label, ASCII grids, SRTM tiles, ENVI with a header."""
    if head[:3] in (b"VOL", b"HDR") and head[80:84] == b"UHL1":
        return "DTED"
    if re.match(rb"\s*(ncols|nrows|xll(corner|center)|dx)\s+[-+0-9.]", head, re.IGNORECASE):
        return "AAIGrid"
    if path.suffix.lower() == ".hgt" and path.stat().st_size in {2 * n * n for n in _HGT_SIDES}:
        return "SRTMHGT"
    # `NAME.hdr` is that of `NAME.gpkg` only by accident
    named = path.suffix.lower() in _ENVI_ENDINGS and _is_envi_header(path.with_suffix(".hdr"), path)
    return "ENVI" if named or _is_envi_header(path.with_name(path.name + ".hdr"), path) else None


def _is_envi_header(header: Path, path: Path) -> bool:
    """Whether there is such a file, and it is not `path` itself."""
    if header == path or not os.path.isfile(header):
        return False
    with header.open("rb") as file:
        return file.read(4) == b"ENVI"


def world_file(path: Path, driver: str) -> Path | None:
    """The world file beside `path`, if there is one."""
    return next((p for s in _WORLD_FILES.get(driver, ()) if os.path.isfile(p := path.with_suffix(s))), None)
