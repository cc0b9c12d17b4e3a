"""Weights of trained networks: safetensors files with a model card in them. Nothing is ever unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from geosr.digests import begun, digest_of
from geosr.errors import InputError
from geosr.raster_guard import is_utf8, show

Arrays = dict[str, NDArray[Any]]

_LARGEST = 1 << 30  # bytes; the largest network here has 6 MB
_KEY = "geosr"  # one key alone: safetensors writes several in any order, and the same weights are to be the same bytes
_PICKLES = (b"PK\x03\x04", b"\x80")
"""How PyTorch's own files begin, as zip archives and without; so do safetensors files of 1 in 32 lengths of header."""


@dataclass(frozen=True)
class Card:
    """What is known of weights: what they are for, and how they came about.

    Attributes:
        method: name of the method whose network they are of.
        scale: that they were trained for.
        bands: of the guide that the network takes.
        network: what shapes the network beyond these.
        about: data, settings, seed, metrics, versions and licence, as JSON has them.
    """

    method: str
    scale: int
    bands: int
    network: dict[str, int]
    about: dict[str, Any]

    def __post_init__(self) -> None:
        numbers = (self.scale, self.bands, *self.network.values())
        if not isinstance(self.method, str) or not all(
            type(number) is int and 0 <= number < 4096 for number in numbers
        ):
            raise TypeError("not what a card holds")


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights as it was when it was looked at; the arrays stay in it.

    Attributes:
        path: of the file, absolute.
        digest: of all its bytes.
        size: of it, in bytes.
        card: its model card.
    """

    path: Path
    digest: str
    size: int
    card: Card = field(compare=False)


def pack(arrays: Mapping[str, NDArray[Any]], about: Mapping[str, Any]) -> bytes:
    """A safetensors file: arrays by name, what is said of them as JSON, and a digest of both; same in, same bytes."""
    ordered = {name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}
    text = json.dumps(about, sort_keys=True)
    told = json.dumps({"about": json.loads(text), "digest": _digest_of_arrays(ordered, text)}, sort_keys=True)
    return save(ordered, {_KEY: told})


def unpack(data: bytes) -> tuple[Arrays, dict[str, Any]]:
    """What `pack` was given.

    Raises:
        ValueError: it is no whole such file; the message says why, as the end of a sentence about it.
    """
    try:
        arrays = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        if data.startswith(_PICKLES):
            raise ValueError(
                "is a PyTorch file (pickle), which may run code when it is opened; geosr opens safetensors files only"
            ) from error
        raise ValueError(f"is no whole safetensors file ({show(error)})") from error
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        told = json.loads(header["__metadata__"][_KEY])
        about, digest = told["about"], told["digest"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError("has no model card of geosr's; only weights made by geosr train have one") from error
    if not isinstance(about, dict) or digest != _digest_of_arrays(arrays, json.dumps(about, sort_keys=True)):
        raise ValueError("is damaged: its weights or its card are not those that it was written with")
    return arrays, about


def _digest_of_arrays(arrays: Mapping[str, NDArray[Any]], text: str) -> str:
    found = begun(text.encode())
    for name in sorted(arrays):
        found.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape}".encode())
        found.update(arrays[name].tobytes())
    return found.hexdigest()


def open_weights(path: Path) -> WeightsFile:
    """Look at a file of weights.

    Raises:
        InputError: it cannot be read, is a pickle, is not whole, or has no model card, or its path is not UTF-8.
    """
    path = path.absolute()
    if not is_utf8(path):  # outputs name them in a tag
        raise InputError(f"{show(path)}: its path is not UTF-8; rename it")
    data = _read(path)
    _, card = _unpack(path, data)
    return WeightsFile(path, digest_of(data), len(data), card)


def read_arrays(file: WeightsFile) -> Arrays:
    """The arrays of a file that was looked at.

    Raises:
        InputError: it cannot be read, or is another one by now.
    """
    data = _read(file.path)
    if digest_of(data) != file.digest:
        raise InputError(f"{show(file.path)}: the weights have changed since the run began; run the command again")
    return _unpack(file.path, data)[0]


def _read(path: Path) -> bytes:
    try:
        if not path.exists():
            raise InputError(f"{show(path)}: the weights cannot be read: there is no such file")
        if not path.is_file() or path.stat().st_size > _LARGEST:
            raise InputError(f"{show(path)}: holds no weights: it is no file, or larger than 1 GiB")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{show(path)}: the weights cannot be read: {error.strerror}") from error


def _unpack(path: Path, data: bytes) -> tuple[Arrays, Card]:
    try:
        arrays, about = unpack(data)
        card = Card(**about)
    except ValueError as error:
        raise InputError(f"{show(path)}: {error}") from error
    except (TypeError, AttributeError) as error:
        raise InputError(f"{show(path)}: its model card is of another version of geosr") from error
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise InputError(f"{show(path)}: some of its weights are not finite")
    return arrays, card
