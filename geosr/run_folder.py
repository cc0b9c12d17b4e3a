"""The run folder: hidden beside the output, it keeps what a run has finished until the output is published.

Its name follows from the output's, so that the same command finds it again:

    lock        held by the run at work; the kernel frees it when that process ends, however it ends
    run.json    the manifest: the fingerprint of all that changes the output, and what was measured of the scene
    state.npz   what a fit on the scene left behind, its digest in the manifest
    checkpoint.safetensors   what a training has come to, with a digest of its own
    tiles/      one file a tile, there and complete or not there at all, each with a digest
    published.json   the finished files that are about to get their names, see `published`
    bands/      of a run for all bands of a source: the guide on the output's grid and the finished bands, their
                digests in the manifest, and the run folder of the next

Everything else in it is being made and of no use to a later run. The digest of the manifest is the key in every
tile file's name: what a tile depends on beyond its own pixels belongs into the manifest before the first tile is
stored, and a worker that a lost run left behind on a cluster cannot put its tiles into another run. Numbers and text
go there as they are (`RunFolder.remember`), arrays into a file beside it.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geosr.digests import digest_of, digest_of_file
from geosr.errors import ChangedInputError, UsageError
from geosr.files import reported, write_whole
from geosr.options import Layer
from geosr.published import PUBLISHED, is_published, published_in
from geosr.raster_guard import show
from geosr.scratch import erase, gone, locked, remove, run_folder_of
from geosr.tile_store import TileStore

CHECKPOINT = "checkpoint.safetensors"
"""Name of a training's own record in the run folder."""

_KEPT = {"lock", "run.json", "state.npz", CHECKPOINT, PUBLISHED, "tiles", *Layer, "bands"}
_TIME = re.compile(r", modified [^,]+ UTC")  # in what `provenance.identity` says of a file
_SHORT = 40  # characters of what was and what is: both are said


class RunFolder:
    """The run folder as the one process that holds its lock sees it.

    Attributes:
        path: the folder.
        changes: what differs from the earlier run whose work was dropped for it; empty if none was.
        published: the files to which an earlier run had given their names when it was ended before its own end.
    """

    def __init__(self, path: Path, fingerprint: Mapping[str, object]) -> None:
        self.path = path
        self.changes: tuple[str, ...] = ()
        self.published = published_in(path)
        self._named_output = is_published(path)
        self._manifest: dict[str, dict[str, Any]] = {"fingerprint": _as_text(fingerprint), "remembered": {}}
        self._begin()

    def _begin(self) -> None:
        """Go on with the earlier run's work if it was one of the same job, else drop it."""
        earlier = self._read_manifest()
        changes = _differences(earlier.get("fingerprint", {}), self._manifest["fingerprint"])
        if not changes:
            self._manifest = earlier
        elif _finished(self.path):
            self.changes = changes
        with reported(f"cannot write in {self.path}"):
            _sweep(self.path, {"lock"} if changes else _KEPT)
            (self.path / "tiles").mkdir(exist_ok=True)
        self._continues = not changes
        self._write_manifest()

    def may_replace(self, *, overwrite: bool) -> bool:
        """Whether this run may replace files of its outputs' names: where that is asked for, or where they are its own.

        They are where the same job was killed after it had named the output and before it could end. What an earlier
        run named without its output is taken back: this one will publish it again.

        Raises:
            UsageError: an output of another job is there.
            OutputError: there is no permission.
        """
        if overwrite or not self.published:
            return overwrite
        if self._named_output:
            if not self._continues:
                files = " and ".join(map(show, sorted(self.published)))
                raise UsageError(f"{files} exists; use --overwrite to replace it")
            return True
        for file in self.published:
            with reported(f"cannot take back {file}"):
                file.unlink(missing_ok=True)
        return False

    def remember(self, name: str, make: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """What the manifest holds as `name`, made and put there if it is the first time.

        Args:
            name: of what is remembered.
            make: gives JSON values; floats come back as they are, tuples as lists.
        """
        remembered = self._manifest["remembered"]
        if name not in remembered:
            remembered[name] = json.loads(json.dumps(dict(make())))
            self._write_manifest()
        value: Mapping[str, Any] = remembered[name]
        return value

    def remember_file(
        self, name: str, file: Path, make: Callable[[], Mapping[str, Any]], tell: Callable[[str], None]
    ) -> Mapping[str, Any]:
        """As `remember`, of a file that `make` writes: made again where the file is gone or not as it was written.

        Args:
            name: of what is remembered; a person understands it.
            file: all of it is read, and compared with its digest.
            make: writes it whole or not at all, and gives JSON values.
            tell: called with a sentence where a file that was finished is made again.

        Raises:
            OutputError: what was written cannot be read.
        """

        def write() -> Mapping[str, Any]:
            known = make()
            with reported(f"cannot read {file}"):
                return {**known, "digest": digest_of_file(file)}

        known = self._manifest["remembered"].get(name)
        if known is not None and not _is_whole(file, known["digest"]):
            tell(f"continuing an earlier run: {name} is missing or damaged and is recomputed")
            self.forget(name)
        return self.remember(name, write)

    def forget(self, name: str) -> None:
        """What is remembered as `name` will be recomputed."""
        self._manifest["remembered"].pop(name, None)
        self._write_manifest()

    def remember_state(self, make: Callable[[], Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
        """The arrays of a fit, made and stored if it is the first time or the stored ones are damaged.

        Args:
            make: gives them; called again it must give the same.
        """
        path, remembered = self.path / "state.npz", self._manifest["remembered"]
        stored = path.read_bytes() if path.exists() else b""
        if not stored or digest_of(stored) != remembered.get("state"):
            stored = _packed(make())
            write_whole(path, stored)
            remembered["state"] = digest_of(stored)
            self._write_manifest()
        with np.load(io.BytesIO(stored), allow_pickle=False) as arrays:
            return dict(arrays)

    def tiles(self, layers: Sequence[Layer] = ()) -> TileStore:
        """The tiles of this run, and room for those of further rasters; nothing remembered later changes them."""
        with reported(f"cannot write in {self.path}"):
            for layer in layers:
                (self.path / layer).mkdir(exist_ok=True)
        key = digest_of(json.dumps(self._manifest, sort_keys=True).encode())
        return TileStore(self.path / "tiles", key, tuple(layers))

    def _read_manifest(self) -> dict[str, dict[str, Any]]:
        """The earlier run's; empty where there is none that can be read."""
        try:
            found = json.loads((self.path / "run.json").read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        whole = isinstance(found, dict) and all(isinstance(found.get(name), dict) for name in self._manifest)
        return found if whole else {}

    def _write_manifest(self) -> None:
        write_whole(self.path / "run.json", json.dumps(self._manifest, indent=1).encode())


def _is_whole(file: Path, digest: str) -> bool:
    with suppress(OSError):
        return digest_of_file(file) == digest
    return False


def _packed(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """What `numpy.savez` makes of them, which takes no array by the name of one of its own arguments."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
    return packed.getvalue()


def _as_text(values: Mapping[str, object]) -> dict[str, str]:
    return {name: "not set" if value is None else str(value) for name, value in values.items()}


def _finished(folder: Path) -> str:
    """What a run folder holds that took long, of whatever run, in words; empty if nothing did."""
    if tiles := sum(1 for _ in folder.glob("tiles/*.tile")):
        return f"finished tiles ({tiles}) are"
    if any(folder.glob("bands/band*")) or any(folder.glob("bands/.band*")):
        return "finished bands or tiles are"
    made = {"state.npz": "the finished fit is", CHECKPOINT: "the last checkpoint is"}
    return next((words for name, words in made.items() if (folder / name).exists()), "")


def _differences(before: Mapping[str, str], now: Mapping[str, str]) -> tuple[str, ...]:
    """What changed, in words: short values with what they were and are, of a file whether it is its time alone."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if not before:
        return ("its record cannot be read",)
    pairs = [(name, before.get(name, "not set"), now.get(name, "not set")) for name in names]
    return tuple(_difference(*pair) for pair in pairs)


def _difference(name: str, before: str, now: str) -> str:
    if len(before) + len(now) < _SHORT:
        return f"{name} (was {before}, is {now})"
    return f"{name} (time)" if _TIME.sub("", before) == _TIME.sub("", now) else name


@contextmanager
def run_folder(output: Path, fingerprint: Mapping[str, object]) -> Iterator[RunFolder]:
    """The run folder of `output`, locked; gone when the block ends well, else kept if a tile or a fit is in it.

    Where it is kept, the error that ends the block gets a note that says so.

    Args:
        output: absolute and free of links.
        fingerprint: everything that changes the output's bytes, by name. Work of an earlier run with another
            one is dropped.

    Raises:
        OutputError: the folder of `output` is missing or cannot be written to, or another run is at work.
    """
    path = run_folder_of(output)
    with locked(path, output):
        with suppress(OSError):  # a run that was killed while it removed its folder may have left a part
            erase(gone(path))
        done = False
        try:
            yield RunFolder(path, fingerprint)
            done = True
            remove(path)
        except BaseException as error:
            if done or is_published(path):
                remove(path)
                erase(gone(path))
                error.add_note(f"{output} was written")
            elif finished := _finished(path):
                _sweep(path, _KEPT)
                changed = isinstance(error, ChangedInputError)
                then = (
                    "of use if that file comes back as it was" if changed else "run the same command again to continue"
                )
                error.add_note(f"{finished} kept in {path}; {then}")
            else:
                remove(path)
            raise


def _sweep(folder: Path, keep: set[str]) -> None:
    """Remove everything else, and files of tiles that were being written."""
    for left in [*folder.iterdir(), *folder.glob("*/.*")]:
        if left.name not in keep and left.suffix != ".geosr":
            remove(left)
