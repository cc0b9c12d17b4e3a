"""What an output depends on: the files, every setting, the software and the machine, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geosr import gdal, methods
from geosr.consistency import Consistency
from geosr.digests import begun, digest_of
from geosr.options import Inputs, Recipe
from geosr.raster import Raster
from geosr.raster_guard import digest_of_parts
from geosr.version import __version__

if TYPE_CHECKING:
    from geosr.methods.base import Method


def versions() -> dict[str, str]:
    """Versions of everything that decides the output's bytes."""
    from geosr.device import torch_version

    return {
        "geosr": __version__,
        "geosr's code": code(),
        "numpy": np.__version__,
        "torch": torch_version(),
        **gdal.versions(),
    }


@cache
def code() -> str:
    """A digest of geosr's own modules as they were when it was first asked for: many commits have one version."""
    folder, digest = Path(__file__).parent, begun()
    for path in sorted(folder.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()} {len(content)} ".encode() + content)
    return digest.hexdigest()[:16]  # short enough to be told where it has changed


def software(device: str, method: str | None) -> dict[str, str]:
    """What must be the same wherever a tile is worked on, or its bytes are not: of the software, and how it runs here.

    Args:
        device: `cpu` or `cuda`.
        method: its name; None where several runs have one each.

    Raises:
        UnavailableError: the method, or a library that it needs, is not installed.
    """
    from geosr.device import device_kind
    from geosr.methods.neighbourhood import kernels

    of_method = methods.versions(methods.entry(method)) if method else {}
    return {"device": device_kind(device), "kernels": kernels(device), **versions(), **of_method}


def fingerprint(
    source: Raster,
    guide: Raster,
    inputs: Inputs,
    recipe: Recipe,
    method: Method,
    consistency: Consistency,
    machine: Mapping[str, str],
) -> dict[str, object]:
    """Everything that changes the output's bytes, by names that a person understands.

    Args:
        source: as described at the start.
        guide: the same.
        inputs: as asked for.
        recipe: as asked for.
        method: with all its settings.
        consistency: as resolved.
        machine: what of the machine and its software changes the bytes: kind of device, threads a tile, versions.
    """
    given = {name: value for name, value in asdict(inputs).items() if name not in ("source", "guide")}
    chosen = {
        name: value for name, value in asdict(recipe).items() if name not in ("settings", "consistency", "weights")
    }
    settings = {f"setting {name}": value for name, value in asdict(method.settings).items()}
    return {
        "source": identity(source),
        "guide": identity(guide),
        **given,
        **chosen,
        **settings,
        **({"weights": method.weights.digest} if method.weights else {}),
        "consistency": str(consistency),
        **machine,
    }


def identity(file: Raster) -> str:
    """Path, size, modification time and a digest of parts of a file, and of what it or files beside it say of it.

    Of a folder: how many files it has, their size in all, and a digest of their identities.
    """
    if file.parts:
        parts = digest_of("\n".join(identity(part) for part in file.files).encode())
        return f"{file.path}, {len(file.parts)} files, {file.fingerprint[0]} bytes, digest {parts}"
    size, nanoseconds, _ = file.fingerprint
    modified = f"{datetime.fromtimestamp(nanoseconds // 10**9, UTC):%Y-%m-%d %H:%M:%S}.{nanoseconds % 10**9:09} UTC"
    said = repr((tuple(file.geobox.affine), file.crs_wkt, file.nodatas)).encode()
    digests = (
        f"digest {digest_of_parts(file.path)}, of georeference and nodata {blake2b(said, digest_size=4).hexdigest()}"
    )
    return f"{file.path}, {size} bytes, modified {modified}, {digests}"
