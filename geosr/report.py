"""The report of a run as JSON: what was asked for, what it ran on, what became of every tile."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from geosr.errors import OutputError, UsageError
from geosr.raster_guard import show
from geosr.store import TileResult, write_whole


def check_report(path: Path, others: Sequence[Path]) -> Path:
    """Where the report will lie, before any work is done; one that is there will be replaced.

    Raises:
        UsageError: the name does not end in .json or .html, or is one of `others`.
        OutputError: its folder does not exist.
    """
    if path.suffix.lower() not in (".json", ".html"):
        raise UsageError(f"{show(path)}: a report is JSON or a page; give a name that ends in .json or .html")
    if any(path.absolute() == other.absolute() for other in others):
        raise UsageError(f"the report {show(path)} is an input or the output; give it another name")
    if not path.parent.is_dir():
        raise OutputError(f"{show(path.parent)} does not exist; make the folder first")
    return path.absolute()


def describe_run(
    depends_on: Mapping[str, str],
    versions: Mapping[str, str],
    results: Sequence[TileResult],
    resumed: int,
    scale: int,
    batch: int = 1,
    **more: object,
) -> dict[str, object]:
    """The report's content.

    Args:
        depends_on: the run's fingerprint.
        versions: the part of it that names software.
        results: of all tiles.
        resumed: how many of them an earlier run had done.
        scale: output pixels to one source pixel along a side.
        batch: tiles that were meant to be fitted together.
        more: what else is to be said, by name.
    """
    inputs = ("source", "guide")
    settings = {name: text for name, text in depends_on.items() if name not in (*versions, *inputs)}
    tiles = {
        "total": len(results),
        "done": sum(result.failure is None for result in results),
        "resumed": resumed,
        "skipped": sum(result.skipped for result in results),
        "failed": [_failure(result, scale) for result in results if result.failed],
        "interpolated": [_failure(result, scale) for result in results if result.interpolated],
    }
    return {
        "inputs": {name: depends_on[name] for name in inputs},
        "settings": settings,
        "versions": dict(versions),
        "tiles": tiles,
        "batches": _batches(results, scale, batch),
        **more,
    }


def _batches(results: Sequence[TileResult], scale: int, planned: int) -> dict[str, object]:
    """How many tiles were fitted together, and which with fewer others for want of memory."""
    smaller = [_place(result, scale) | {"batch": result.batch} for result in results if result.batch]
    return {"planned": planned, "smaller": smaller, "same_bytes_again": not smaller}


def _failure(result: TileResult, scale: int) -> dict[str, object]:
    return _place(result, scale) | {"reason": result.failure}


def _place(result: TileResult, scale: int) -> dict[str, object]:
    window = result.tile.window.times(scale)
    return {"index": result.tile.index, "row": window.row, "column": window.col}


def write_report(path: Path, content: Mapping[str, object]) -> None:
    """Write it whole or not at all.

    Raises:
        OutputError: there is no room or no right.
    """
    write_whole(path, (json.dumps(dict(content), indent=2, ensure_ascii=False) + "\n").encode(errors="replace"))
