"""Whether a cluster's worker can do a run's tiles, and to the same bytes: it looks for itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from geosr import methods
from geosr.provenance import software
from geosr.version import __version__

_MODULES = "geosr.tile_work", "geosr.methods.solve", "geosr.methods.foreign"
"""What every tile's work imports, with all libraries behind it."""


def make_look(files: Mapping[Path, int], folder: Path, device: str, method: str | None) -> Callable[[], str | None]:
    """What a worker calls, and what it then says is wrong with it, as the end of a sentence; None if nothing is.

    It travels as code, for the worker may have another geosr or none.

    Args:
        files: what the tiles are made from, with sizes in bytes.
        folder: where the tiles are stored.
        device: that they are worked on.
        method: its name; None where several runs have one each.

    Raises:
        UnavailableError: the method, or a library that it needs, is not even here.
    """
    version, same, there = __version__, software(device, method), str(folder)
    modules = [*_MODULES, *([methods.entry(method).loader.partition(":")[0]] if method else [])]
    sizes = {str(path): size for path, size in files.items()}

    def look() -> str | None:
        import os
        import tempfile
        from importlib import import_module

        try:
            found = import_module("geosr.version").__version__
        except ImportError:
            return f"has no geosr; install {version} there"
        if found != version:
            return f"has geosr {found}, this is {version}; install the same version there"
        try:
            for module in modules:
                import_module(module)
            has = import_module("geosr.provenance").software(device, method)
        except ImportError as error:
            return f"lacks what a tile needs: {error}; install there what is installed here"
        except Exception as error:
            return f"cannot work on a tile: {type(error).__name__}: {error}"
        for name, value in same.items():
            if has.get(name) != value:
                return f"has {name} {has.get(name)}, this process {value}: its tiles would differ"
        shared = "inputs and output must lie on storage that all workers share, under the same paths"
        for path, size in sizes.items():
            if not os.path.isfile(path) or os.path.getsize(path) != size:
                return f"does not see the same {path}; {shared}"
        try:
            with tempfile.NamedTemporaryFile(dir=there):
                return None
        except OSError as error:
            return f"cannot write in {there} ({error.strerror}); {shared}"

    return look
