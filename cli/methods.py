"""`geosr methods`."""

from __future__ import annotations

import click

from geosr import methods

from .render import table_lines


@click.command()
def command() -> None:
    """List the methods, what each is and its presets."""
    entries = [methods.entry(name) for name in methods.names()]
    rows = [(entry.name, f"{entry.summary}; presets: {', '.join(entry.presets)}") for entry in entries]
    click.echo("\n".join(table_lines(rows)))
