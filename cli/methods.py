"""`geosr methods`."""

from __future__ import annotations

from dataclasses import asdict

import click

from geosr import methods
from geosr.methods.entry import COSTS, Entry

from .render import printable, say, table_lines


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
def command(names: tuple[str, ...]) -> None:
    """List the methods: what each does, where it comes from, what it costs and when to use it.

    With a NAME also its settings, each with its default, as --set takes them.
    """
    found, problems = ([methods.entry(name) for name in names], []) if names else methods.listing()
    for entry in found:
        click.echo(printable(f"{entry.name}: {entry.summary}"))
        click.echo("\n".join(f"  {line}" for line in table_lines(_rows(entry, settings=bool(names)))))
    for problem in problems:
        say(f"Note: {problem}")


def _rows(entry: Entry, *, settings: bool) -> list[tuple[str, str]]:
    rows = [
        ("source", entry.source),
        ("cost", COSTS[entry.cost]),
        ("use", entry.use),
        ("presets", ", ".join(entry.presets)),
    ]
    if entry.package:
        rows.append(("package", entry.package))
    if entry.needs_weights:
        rows.append(("weights", "needs --weights FILE, a safetensors file that `geosr train` makes"))
    elif settings:
        chosen = asdict(methods.create(entry.name).settings)
        rows.append(("settings", ", ".join(f"{name}={value}" for name, value in chosen.items()) or "none"))
    return rows
