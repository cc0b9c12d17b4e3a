"""`geosr info`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from geosr.options import Execution, Recipe
from geosr_cli.options import PATH, inputs_from, pair_options
from geosr_cli.render import clock, show_inspection


@click.command()
@click.argument("source", type=PATH)
@click.argument("guide", type=PATH)
@pair_options
@click.option("--method", default="mmsr", show_default=True, help="See `geosr methods`.")
@click.option("--preset", default="default", show_default=True)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--time", "timed", is_flag=True, help="Also an estimate of the time, from steps timed on this machine.")
def command(source: Path, guide: Path, method: str, preset: str, device: str, timed: bool, **values: Any) -> None:
    """Say what is in SOURCE and GUIDE, how they fit together and what `geosr upscale` would do."""
    from geosr.pipeline import estimate_seconds, inspect

    inputs, recipe = inputs_from(source, guide, values), Recipe(method, preset)
    show_inspection(inspect(inputs, recipe, Execution(device)))
    if timed:
        click.echo(f"time  about {clock(estimate_seconds(inputs, recipe, Execution(device)))}")
