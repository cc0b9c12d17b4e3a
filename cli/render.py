"""What a person sees: a bar on a terminal, plain lines elsewhere, all on stderr; what was asked for on stdout."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click

from geosr.errors import GeosrError
from geosr.events import Event, Fitting, Note, Planned, Progress, Stage, TileFailed
from geosr.tables import plain

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from geosr.multiband import BandsReport
    from geosr.report import Report

INTERRUPTED = 130  # the exit code
_EVERY = 10.0  # seconds between two plain progress lines
_WAITS = {
    "assessment": "trying the methods one scale lower",
    "coregister": "finding the guide's shift",
    "fit": "fitting to the scene; no tile is done before that (geosr info --time says about how long)",
}
"""What is said of the stages that take long before anything else is to be told."""


class Screen:
    """Renders events; a context manager, so that the bar is gone when an error is printed."""

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        self._quiet, self._verbose = quiet, verbose
        self._bar = None if quiet else _find_bar()
        self._spoke = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def show(self, event: Event) -> None:
        """One event."""
        if self._bar:
            self._bar.start()  # not in __enter__: whatever comes between, __exit__ gives the cursor back
        match event:
            case Note(text):
                self._print(f"note: {text}")
            case Planned(rows) if self._verbose:
                for line in table_lines(rows()):
                    self._print(line)
            case Stage(name) if self._bar:
                self._bar.update(self._bar.task_ids[0], description=name)
            case Stage(name) if self._verbose:
                self._print(f"stage: {name}")
            case Stage(name) if name in _WAITS:
                self._print(_WAITS[name])
            case Fitting():
                self._fitting(event)
            case TileFailed():
                again = "; it will be tried again at the end" if event.retry else ""
                self._print(
                    f"tile {event.index} (row {event.row}, column {event.column}) failed: {event.reason}{again}"
                )
            case Progress():
                self._progress(event)

    def _fitting(self, event: Fitting) -> None:
        now, text = time.monotonic(), f"fit: {event.share:.0%} done, about {clock(event.left)} left"
        if self._bar:
            self._bar.update(self._bar.task_ids[0], description=text)
        elif now - self._spoke >= _EVERY:
            self._print(text)
            self._spoke = now

    def _progress(self, event: Progress) -> None:
        now, ended = time.monotonic(), event.done == event.total
        left = "" if event.left is None or ended else f", {speed(event.rate)}, about {clock(event.left)} left"
        left = (f", {event.failed} failed" if event.failed else "") + left
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=event.done, total=event.total, left=left)
        elif event.rate is None or ended or now - self._spoke >= _EVERY:
            self._print(f"tiles: {event.done} of {event.total}{left}")
            self._spoke = now

    def finish(self, report: Report) -> None:
        """The closing words."""
        found = report.written
        if found is None:
            return
        seam = "" if found.seam_ratio is None else f", seams {found.seam_ratio:.2f} (about 1 = none, 2 = everywhere)"
        skipped = f", {report.skipped} of them without data" if report.skipped else ""
        self._print(
            f"wrote {one_line(report.output)} in {clock(sum(report.seconds.values()))}: "
            f"{count(report.tiles, 'tile')}{skipped}; "
            f"pooled output - source: at most {found.deviation.largest:.3g}, RMS {found.deviation.rms:.3g}{seam}; "
            f"expected error: RMS {report.expected:.3g}"
        )

        if report.interpolated:
            self._print(
                f"{count(len(report.interpolated), 'tile')} failed and hold the interpolated source: "
                "the tag GEOSR_INTERPOLATED_TILES names them"
            )

    def finish_bands(self, report: BandsReport) -> None:
        """The closing words of a run for all bands."""
        least, most = min(report.errors), max(report.errors)
        failed = f", {report.interpolated} of them failed and interpolated" if report.interpolated else ""
        self._print(
            f"wrote {one_line(report.output)}: {count(len(report.errors), 'band')}, {count(report.tiles, 'tile')}"
            f"{failed}; expected error: RMS {least:.3g} to {most:.3g}"
        )

    def _print(self, text: str) -> None:
        if self._bar:
            self._bar.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)
        elif not self._quiet:
            say(text)


class JsonLog:
    """A JSON object on stderr for each event, and one for the end, however it comes; a context manager."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Errors that are answers to the user become an object in place of a line; a fault of geosr stays one."""
        if not isinstance(error, GeosrError | KeyboardInterrupt):
            return
        code = error.exit_code if isinstance(error, GeosrError) else INTERRUPTED
        text = "\n".join([str(error) or "interrupted", *getattr(error, "__notes__", ())])
        self._write("error", kind=type(error).__name__, exit_code=code, message=text)
        raise click.exceptions.Exit(code)

    def show(self, event: Event) -> None:
        """One event: its class in snake case, and its values; not the plan, which is lines for people."""
        if isinstance(event, Planned):
            return
        more = {"left": event.left} if isinstance(event, Progress | Fitting) else {}
        name = "tile_failed" if isinstance(event, TileFailed) else type(event).__name__.lower()
        self._write(name, **asdict(event), **more)

    def finish(self, report: Report) -> None:
        """The output is there."""
        self._write(
            "written",
            output=str(report.output),
            seconds=sum(report.seconds.values()),
            interpolated=len(report.interpolated),
            expected_error=report.expected,
            guided=report.guided,
            deviation=asdict(report.written.deviation) if report.written else None,
        )

    def finish_bands(self, report: BandsReport) -> None:
        """The output is there."""
        self._write("written", output=str(report.output), bands=len(report.errors), interpolated=report.interpolated)

    def _write(self, event: str, **values: object) -> None:
        time_now = datetime.now(UTC).isoformat(timespec="milliseconds")
        say(json.dumps(plain({"event": event, "time": time_now, **values})))


def _find_bar() -> Bar | None:
    from .bar import terminal_bar

    return terminal_bar()


def say(text: str) -> None:
    """A line on stderr; nobody there to read it is no reason to stop."""
    with suppress(OSError):
        click.echo(printable(text), err=True)


def tell(lines: Iterable[str], notes: Iterable[str], write: Callable[[], None]) -> None:
    """Notes, the lines on stdout, and the same into files; neither keeps the other from coming out."""
    for note in notes:
        say(f"note: {note}")
    try:
        click.echo(printable("\n".join(lines)))
    finally:
        write()


def printable(text: str) -> str:
    """`text` with control characters escaped: names and tags of files are not to drive the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def one_line(path: Path) -> str:
    """A path with its line breaks escaped, too."""
    return printable(str(path)).replace("\n", "\\n")


def table_lines(rows: Iterable[tuple[str, str]]) -> list[str]:
    """Names in one column, values in the next."""
    listed = [*rows]
    width = max([8, *(len(name) for name, _ in listed)])
    return [printable(f"{name:<{width}}  {value}") for name, value in listed]


def count(number: int, thing: str) -> str:
    """`1 tile`, `2 tiles`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def speed(rate: float | None) -> str:
    """Tiles a second, or a minute where those are few."""
    rate = rate or 0.0
    return f"{rate:.1f} tiles a second" if rate >= 1 else f"{60 * rate:.1f} tiles a minute"


def clock(seconds: float) -> str:
    """Seconds as `8 s`, `3 min 20 s` or `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
