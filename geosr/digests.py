"""Digests by which files and settings are known again: BLAKE2b of 16 bytes, in hexadecimal digits."""

from __future__ import annotations

import hashlib
from pathlib import Path

LENGTH = 32
"""Of a digest in digits."""


def begun(data: bytes = b"") -> hashlib.blake2b:
    """A digest of what comes in pieces, the first of them `data`."""
    return hashlib.blake2b(data, digest_size=LENGTH // 2)


def digest_of(data: bytes) -> str:
    """Of all of it."""
    return begun(data).hexdigest()


def digest_of_file(path: Path) -> str:
    """Of all that a file holds, however large it is; `OSError` where it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, begun).hexdigest()
