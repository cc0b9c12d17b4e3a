"""What a person sees: progress on a terminal, plain lines elsewhere; notes and the closing words on stderr."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from geosr.options import Event, Note, Progress, Stage

if TYPE_CHECKING:
    from geosr.pipeline import Inspection, Report

_EVERY = 10.0  # seconds between two plain progress lines


class Screen:
    """Renders events; a context manager, so that the bar is gone when an error is printed."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self._bar: Bar | None = None
        self._started = self._spoke = time.monotonic()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("tiles"),
            )
            self._bar = Bar(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self._console, transient=True)
            self._task = self._bar.add_task("starting", total=None)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def show(self, event: Event) -> None:
        """One event."""
        match event:
            case Note(text):
                self._print(f"note: {text}")
            case Stage(name) if self._bar:
                self._bar.update(self._task, description=name)
            case Progress(done, total):
                self._progress(done, total)

    def _progress(self, done: int, total: int) -> None:
        if self._bar:
            self._bar.update(self._task, completed=done, total=total)
            return
        now = time.monotonic()
        if done in (0, total) or now - self._spoke >= _EVERY:
            left = f", about {clock((now - self._started) / done * (total - done))} left" if 0 < done < total else ""
            self._print(f"tiles: {done} of {total}{left}")
            self._spoke = now

    def finish(self, report: Report) -> None:
        """The closing words."""
        found = report.written
        seam = "" if found.seam_ratio is None else f", seams {found.seam_ratio:.3f} (1 = none)"
        self._print(
            f"wrote {report.output} in {clock(report.seconds)}: {report.tiles} tile(s), {report.skipped} without data; "
            f"pooled output - source: at most {found.deviation.largest:.3g}, RMS {found.deviation.rms:.3g}{seam}"
        )

    def _print(self, text: str) -> None:
        self._console.print(Text(printable(text)))


def printable(text: str) -> str:
    """`text` with control characters escaped: names and tags of files are not to drive the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def clock(seconds: float) -> str:
    """Seconds as `8 s`, `3 min 20 s` or `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(number: float) -> str:
    """Bytes as `512 MB` or `2.1 GB`."""
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


def show_inspection(found: Inspection) -> None:
    """The table of `geosr info`, on stdout."""
    console = Console(highlight=False, soft_wrap=True)
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    from geosr.pipeline import rows

    for key, value in rows(found):
        table.add_row(key, printable(value))
    console.print(table)
    for note in found.notes:
        console.print(Text(printable(f"note: {note}")))
