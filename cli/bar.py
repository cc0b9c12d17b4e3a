"""The progress bar; apart from the rest because rich takes a while to import."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


def terminal_bar() -> Progress | None:
    """A bar that has not started, where stderr is a terminal that can show one."""
    console = Console(stderr=True)
    if not console.is_interactive:
        return None
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("tiles{task.fields[left]}"),
    )
    bar = Progress(*columns, TimeElapsedColumn(), console=console, transient=True)
    bar.add_task("starting", total=None, left="")
    return bar
