"""Every error that geosr raises on purpose, with the exit code of the command line.

    GeosrError                    1   base: never raised itself
    ├── UsageError (ValueError)   2   the call contradicts itself or a rule: scale, paths, options
    ├── InputError (ValueError)   3   a raster is refused: unreadable, hostile, or it does not fit the other
    │   └── ChangedInputError     3   one that was replaced during the run, which ends it
    ├── UnavailableError          4   the method, device or scheduler asked for is not there
    ├── TileError                 5   some tiles failed; nothing was published, the others are kept
    │   └── OutOfMemoryError      5   one for want of memory: it may go better with less in work
    └── OutputError (OSError)     6   the output could not be written

A message says what was found, what was expected and what to do, in at most three lines.
"""

from __future__ import annotations


class GeosrError(Exception):
    """Base of all errors that are answers to the user and not faults of geosr."""

    exit_code = 1


class UsageError(GeosrError, ValueError):
    """The call itself is wrong: an option out of range, an output that is an input."""

    exit_code = 2


class InputError(GeosrError, ValueError):
    """A raster is refused: missing, damaged, hostile, or unfit for the other one."""

    exit_code = 3


class ChangedInputError(InputError):
    """A raster is not the one that it was when the run began: nothing that was made of it can be used."""


class UnavailableError(GeosrError, RuntimeError):
    """The method, device or scheduler asked for is not there, or is lost."""

    exit_code = 4


class TileError(GeosrError, RuntimeError):
    """Tiles failed; the message names them."""

    exit_code = 5


class OutOfMemoryError(TileError):
    """A tile needed more memory than there was."""


class OutputError(GeosrError, OSError):
    """The output could not be written."""

    exit_code = 6
