"""Pairs out of STAC: an Item, or an ItemCollection, as a JSON file whose assets are local files.

Only what pairs need is read, `id`, `assets` and `href`, which are the same in all versions of STAC from 0.8 on; a
library for all the rest of it would earn little here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from geosr.errors import InputError
from geosr.raster_guard import is_utf8, show

SOURCE_KEYS = ("source", "dsm", "dem", "data", "lwir11", "lwir")
"""Asset keys under which a coarse raster is looked for, the first that an item has: our own and usual ones."""

GUIDE_KEYS = ("guide", "visual", "rgb", "image")
"""The same for the sharp image."""


@dataclass(frozen=True)
class Entry:
    """An item: the files of its two assets, or why there are none.

    Attributes:
        name: the item's id.
        source, guide: local files, not looked for yet; None where `why` says what is wrong.
        why: a sentence.
    """

    name: str
    source: Path | None = None
    guide: Path | None = None
    why: str | None = None


def read_items(path: Path, source_key: str | None = None, guide_key: str | None = None) -> Iterator[Entry]:
    """Every item of the file, in its order.

    Args:
        path: JSON, an Item or an ItemCollection.
        source_key: of the coarse raster among an item's assets; the first of `SOURCE_KEYS` that it has when None.
        guide_key: of the sharp image; the first of `GUIDE_KEYS` when None.

    Raises:
        InputError: it cannot be read, or is neither.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{show(path)}: cannot be read as JSON: {show(error)}") from error
    kind = content.get("type") if isinstance(content, dict) else None
    items = [content] if kind == "Feature" else content.get("features") if kind == "FeatureCollection" else None
    if not isinstance(items, list):
        raise InputError(f"{show(path)}: is {show(kind)}; a STAC Item or ItemCollection is needed")
    sources = SOURCE_KEYS if source_key is None else (source_key,)
    guides = GUIDE_KEYS if guide_key is None else (guide_key,)
    yield from (_entry(number, item, path.parent, sources, guides) for number, item in enumerate(items, 1))


def _entry(number: int, item: Any, folder: Path, source_keys: tuple[str, ...], guide_keys: tuple[str, ...]) -> Entry:
    name = item.get("id") if isinstance(item, dict) else None
    assets = item.get("assets") if isinstance(item, dict) else None
    if not isinstance(name, str) or not isinstance(assets, dict):
        return Entry(f"item {number}", why="has no id or no assets")
    try:
        return Entry(name, _asset(assets, source_keys, folder), _asset(assets, guide_keys, folder))
    except InputError as error:
        return Entry(name, why=str(error))


def _asset(assets: Mapping[str, Any], keys: tuple[str, ...], folder: Path) -> Path:
    """The file of the first asset that is there.

    Raises:
        InputError: there is none, or it is not a local file.
    """
    key = next((key for key in keys if key in assets), None)
    if key is None:
        there = ", ".join(show(name, 40) for name in assets) or "none"
        raise InputError(f"has no asset {' or '.join(keys)}; its assets: {there}")
    href = assets[key].get("href") if isinstance(assets[key], dict) else None
    if not isinstance(href, str) or not href:
        raise InputError(f"asset {key} has no href")
    try:
        parts = urlsplit(href)
    except ValueError as error:  # as of http://[
        raise InputError(f"asset {key} has no href that can be read: {show(href, 80)}") from error
    if parts.scheme not in ("", "file") or parts.netloc not in ("", "localhost"):
        raise InputError(f"asset {key} is not on this machine ({show(href, 80)}); download it first")
    path = unquote(parts.path) if parts.scheme else href
    if "\0" in path or not is_utf8(path):
        raise InputError(f"asset {key} has no href that can be a file's name: {show(href, 80)}")
    return folder / path
