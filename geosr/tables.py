"""A small table and the ways in which it is written: for a terminal, as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from geosr.errors import UsageError
from geosr.files import check_place, write_whole
from geosr.raster_guard import show

SUFFIXES = {"json": ".json", "csv": ".csv", "markdown": ".md"}
"""How the file of each kind must end."""

Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """Rows of cells under headings; an empty cell is None."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def of(self, **names: str) -> Table:
        """The same under further headings to the left, with one name in all rows: for tables that are put together."""
        return Table((*names, *self.columns), tuple((*names.values(), *row) for row in self.rows))

    def lines(self) -> list[str]:
        """In columns, for a terminal: text to the left, numbers to the right."""
        texts = [self.columns, *(tuple(text_of(cell) for cell in row) for row in self.rows)]
        widths = [max(len(row[column]) for row in texts) for column in range(len(self.columns))]
        left = [all(isinstance(row[column], str | None) for row in self.rows) for column in range(len(widths))]
        return [
            "  ".join(
                text.ljust(width) if words else text.rjust(width)
                for text, width, words in zip(row, widths, left, strict=True)
            ).rstrip()
            for row in texts
        ]

    def markdown(self) -> str:
        """As a Markdown table."""
        heads, *texts = [tuple(text_of(cell).replace("|", "\\|") for cell in row) for row in (self.columns, *self.rows)]
        rule = ("---",) * len(self.columns)
        return "".join(f"| {' | '.join(row)} |\n" for row in (heads, rule, *texts))

    def csv(self) -> str:
        """As CSV, numbers in full."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(["" if cell is None else cell for cell in row] for row in self.rows)
        return stream.getvalue()


def text_of(cell: Cell) -> str:
    """A cell for a person, on one line: four digits of a fraction, nothing for None."""
    if cell is None:
        return ""
    return f"{cell:.4g}" if isinstance(cell, float) else " / ".join(str(cell).splitlines())


def check_files(files: Mapping[str, Path | None]) -> None:
    """See before any work that files (by kind, see `SUFFIXES`) can be written.

    Raises:
        UsageError: a name does not end as its kind does.
        OutputError: as `check_place`.
    """
    for kind, path in files.items():
        if path is None:
            continue
        if path.suffix.lower() != SUFFIXES[kind]:
            raise UsageError(f"{show(path)}: --{kind} wants a name that ends in {SUFFIXES[kind]}")
        check_place(path)


def write_files(files: Mapping[str, Path | None], table: Table, content: Mapping[str, object]) -> None:
    """Write the table in every kind asked for, `content` as the JSON; each whole or not at all.

    Raises:
        OutputError: there is no space left, or no permission.
    """
    for kind, path in files.items():
        if path is None:
            continue
        text = as_json(content) if kind == "json" else table.csv() if kind == "csv" else table.markdown()
        write_whole(path, text.encode(errors="replace"))


def as_json(content: Mapping[str, object]) -> str:
    """JSON that every reader takes: numbers that are not finite become null."""
    return json.dumps(plain(content), indent=2, ensure_ascii=False) + "\n"


def plain(value: object) -> object:
    """A value as JSON has it: null for numbers that are not finite, which it cannot say, and paths as text."""
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
