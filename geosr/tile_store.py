"""What became of a tile, and the files in which a run keeps its tiles: there and complete or not there at all."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geosr.digests import LENGTH, digest_of
from geosr.errors import OutputError
from geosr.files import reported, write_whole
from geosr.tiling import Tile

_DTYPE = np.dtype("<f4")
_ALIGNMENT = 64


@dataclass(frozen=True)
class TileResult:
    """What became of a tile.

    Attributes:
        tile: the tile.
        centre: to be added to the stored values; None where there are none.
        guided: share of the core's valid area on which the guide had a say.
        valid: valid source pixels in the core.
        expected: mean square of the error to be expected over them, in the source's units squared.
        spikes: source pixels in the core that the method did not see, see `Stats`.
        failure: why the method has no answer; what is stored then, if anything, is interpolated.
        retry: whether another attempt may go better.
        batch: how many tiles were fitted together, where memory forced fewer than planned; else None.
    """

    tile: Tile
    centre: float | None = None
    guided: float = 0.0
    valid: int = 0
    expected: float = 0.0
    spikes: int = 0
    failure: str | None = None
    retry: bool = False
    batch: int | None = None

    @property
    def skipped(self) -> bool:
        """There was no valid source pixel to work on."""
        return self.centre is None and self.failure is None

    @property
    def failed(self) -> bool:
        """There should be values, and there are none."""
        return self.centre is None and self.failure is not None

    @property
    def interpolated(self) -> bool:
        """The values are interpolated, in place of those that the method could not give."""
        return self.centre is not None and self.failure is not None


@dataclass(frozen=True)
class TileStore:
    """Tiles on disk by index, as float32 differences from the tile's centre; any process may add its own.

    Attributes:
        path: the folder.
        key: of the run; its tiles carry it in their names.
        layers: names of further rasters (`options.Layer`), of which a tile has its part as well.
    """

    path: Path
    key: str
    layers: tuple[str, ...] = ()

    def save(self, result: TileResult, values: NDArray[np.float64] | None = None) -> TileResult:
        """Store a tile's values (None for a skipped one) and what is known of them; gives `result` back.

        Raises:
            OutputError: there is no space left, or no permission.
        """
        stored = None if values is None else np.ascontiguousarray(values, _DTYPE)
        header = {
            "shape": None if stored is None else stored.shape,
            "centre": result.centre,
            "guided": result.guided,
            "valid": result.valid,
            "expected": result.expected,
            "spikes": result.spikes,
            "failure": result.failure,
            "batch": result.batch,
        }
        text = json.dumps(header).encode()
        text += b" " * (-(LENGTH + 1 + len(text) + 1) % _ALIGNMENT) + b"\n"
        body = text if stored is None else text + stored.tobytes()
        write_whole(self._file(result.tile.index), digest_of(body).encode() + b"\n" + body)
        return result

    def find(self, tile: Tile) -> TileResult | None:
        """What is stored of `tile`; None where nothing is, or an interpolation only.

        Raises:
            OutputError: the file is damaged.
        """
        try:
            header = self._header(tile.index, check=True)[0]
            beside = self.layers if header["centre"] is not None else ()  # a skipped tile has none
            for name in beside:
                self.layer(name)._header(tile.index, check=True)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise OutputError(f"cannot read tile {tile.index} in {self.path}: {error.strerror or error}") from error
        if header["failure"] is not None:
            return None
        known = {name: header[name] for name in ("centre", "guided", "valid", "expected", "spikes", "batch")}
        return TileResult(tile, **known)

    def discard(self, tile: Tile) -> None:
        """Forget what is stored of `tile`, if anything.

        Raises:
            OutputError: there is no permission.
        """
        with reported(f"cannot write in {self.path}"):
            self._file(tile.index).unlink(missing_ok=True)

    def load(self, index: int, *, check: bool) -> NDArray[np.float32]:
        """One tile's values, mapped and not read; with `check`, all of the file is compared with its digest.

        Raises:
            OutputError: the file is damaged.
        """
        header, offset = self._header(index, check=check)
        return np.memmap(self._file(index), _DTYPE, "r", offset, tuple(header["shape"]))

    def layer(self, name: str) -> TileStore:
        """Where a further raster's tiles lie: one is stored before the tile of the output that it belongs to."""
        return TileStore(self.path.parent / name, self.key)

    def _header(self, index: int, *, check: bool) -> tuple[dict[str, Any], int]:
        """The header, and where the values begin."""
        with self._file(index).open("rb") as file:
            digest = file.readline(LENGTH + 1).strip().decode(errors="replace")
            if check and digest_of(file.read()) != digest:
                raise OutputError(f"{self._file(index)} is damaged; run the same command again to recompute the tile")
            file.seek(LENGTH + 1)
            header: dict[str, Any] = json.loads(file.readline())
            return header, file.tell()

    def _file(self, index: int) -> Path:
        return self.path / f"{index:07d}-{self.key}.tile"
