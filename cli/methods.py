"""`geosr methods`."""

from __future__ import annotations

import click

from geosr import methods


@click.command()
def command() -> None:
    """List the methods, what each is and its presets."""
    for name in methods.names():
        entry = methods.entry(name)
        click.echo(f"{name:10}{entry.summary}; presets: {', '.join(entry.presets)}")
