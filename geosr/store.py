"""The run folder: a hidden, private folder beside the output that holds tiles until they are blended."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geosr.errors import OutputError


@dataclass(frozen=True)
class RunFolder:
    """Tiles on disk by index, as float32 differences from the tile's centre."""

    path: Path

    def save(self, index: int, values: NDArray[np.float64]) -> None:
        """Store one tile's values."""
        try:
            np.save(self._tile(index), values.astype(np.float32), allow_pickle=False)
        except OSError as error:
            raise OutputError(f"cannot store a tile in {self.path}: {error.strerror or error}") from error

    def load(self, index: int) -> NDArray[np.float32]:
        """One tile's values, mapped and not read."""
        tile: NDArray[np.float32] = np.load(self._tile(index), mmap_mode="r", allow_pickle=False)
        return tile

    def _tile(self, index: int) -> Path:
        return self.path / f"tile-{index:07d}.npy"


@contextmanager
def run_folder(output: Path) -> Iterator[RunFolder]:
    """A run folder beside `output`, gone when the block ends, however it ends.

    Raises:
        OutputError: the folder of `output` is missing or cannot be written to.
    """
    try:
        path = Path(tempfile.mkdtemp(prefix=f".{output.name[:40]}.", suffix=".geosr", dir=output.parent))
    except OSError as error:
        raise OutputError(f"cannot write in {output.parent}: {error.strerror or error}") from error
    try:
        yield RunFolder(path)
    finally:
        gone = path.with_name(f"{path.name}.gone")
        with suppress(OSError):  # after it a tile still in work cannot add a file to the folder being emptied
            path = path.rename(gone)
        shutil.rmtree(path, ignore_errors=True)
