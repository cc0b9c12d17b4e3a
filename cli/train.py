"""`geosr train`."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

from geosr.errors import UsageError
from geosr.events import Event, Note, Trained, Validated
from geosr.options import Execution

from .options import PATH, Command, device_option, option, read_settings, scale_option
from .render import clock, one_line, printable, say

_PAIRS = "What is learnt from"
_HOW = "How it is trained"
_RUN = "How it runs"
_EVERY = 10.0  # seconds between two progress lines


@click.command(cls=Command)
@option(
    _PAIRS,
    "--pairs",
    type=PATH,
    metavar="MANIFEST",
    help="A CSV file with the columns source and guide, as for `geosr batch`; the sources are the truth: their means "
    "over --scale x --scale pixels are what the network gets.",
)
@option(
    _PAIRS,
    "--dataset",
    type=(str, PATH),
    metavar="NAME ROOT",
    help="In place of it: a paper's data set, as for `geosr batch`, one with a truth: middlebury, dfc2019, ...",
)
@option(
    _PAIRS,
    "--validation",
    type=float,
    default=0.2,
    show_default=True,
    metavar="SHARE",
    help="Share of the pairs, drawn by the seed, that is left out to choose the best weights on; one pair at least.",
)
@option(_HOW, "--method", default="fdsr", show_default=True, metavar="NAME", help="The network: fdsr, fdkn or dkn.")
@scale_option
@option(
    _HOW,
    "--preset",
    default="default",
    show_default=True,
    metavar="NAME",
    help="The schedule: 'default', or 'paper' as published (long).",
)
@option(
    _HOW,
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change one setting, e.g. steps=2000; may be repeated. docs/training.md has them all.",
)
@option(
    _HOW, "--seed", type=int, default=0, show_default=True, metavar="N", help="The same seed gives the same weights."
)
@option(
    "What is written",
    "-o",
    "--output",
    type=PATH,
    required=True,
    metavar="FILE",
    help="The weights, FILE.safetensors, with their model card in it and, to be read, in FILE.md.",
)
@option("What is written", "--log", type=PATH, metavar="FILE", help="A CSV file with a row for each validation.")
@option(
    "What is written",
    "--licence",
    default="not stated",
    metavar="TEXT",
    help="The licence of the weights, for the model card: yours to say, as the data let you.",
)
@device_option
@option(
    _RUN,
    "--threads",
    type=int,
    metavar="N",
    help="Of the processor; another number changes the result by rounding.  [default: all]",
)
@option(_RUN, "--overwrite", is_flag=True, help="Replace weights that exist.")
@option(_RUN, "-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def command(
    pairs: Path | None,
    dataset: tuple[str, Path] | None,
    validation: float,
    method: str,
    scale: float,
    preset: str,
    settings: tuple[str, ...],
    seed: int,
    output: Path,
    log: Path | None,
    licence: str,
    device: str,
    threads: int | None,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Train a network on pairs whose truth is known, for --method fdsr, fdkn or dkn.

    Whatever ends it, the same command goes on from the last checkpoint and comes to the same weights.

    \b
      geosr train --method fdsr --pairs pairs.csv --scale 4 -o fdsr_x4.safetensors --log fdsr_x4.csv
      geosr upscale --method fdsr --weights fdsr_x4.safetensors --source dsm.tif --guide ortho.tif -o dsm_x4.tif
    """  # noqa: D301
    from geosr.grid import check_scale
    from geosr.pair_lists import true_pairs, true_pairs_of_dataset
    from geosr.train import Course, train

    if (pairs is None) == (dataset is None):
        raise UsageError("give exactly one of --pairs and --dataset")
    if log is not None and pairs is not None and os.path.realpath(log) == os.path.realpath(pairs):
        raise UsageError("the log is the list of pairs; give it another name")
    course = Course(method, check_scale(scale), preset, read_settings(settings), validation, seed, licence)
    jobs = true_pairs(pairs) if pairs else true_pairs_of_dataset(*dataset) if dataset else []
    lines = _Lines(quiet)
    execution = Execution(device, overwrite=overwrite, on_event=lines.show, threads=threads)
    card = train(jobs, course, execution, output, log=log)
    metrics = card.about["metrics"]
    lines.say(
        f"wrote {one_line(output)}: step {card.about['step']}, RMSE {metrics['rmse']:.4f} of the source's standard "
        f"deviation on {len(metrics['pairs'])} left-out pair(s), bicubic {metrics['bicubic']:.4f}"
    )


class _Lines:
    """Events as lines on stderr."""

    def __init__(self, quiet: bool) -> None:
        self._quiet, self._spoke = quiet, time.monotonic()

    def show(self, event: Event) -> None:
        """One event."""
        match event:
            case Note(text):
                self.say(f"note: {text}")
            case Validated(step, loss, rmse, bicubic):
                self.say(f"step {step}: loss {loss:.4g}; on the left-out pairs RMSE {rmse:.4f}, bicubic {bicubic:.4f}")
            case Trained(step, steps, _) if time.monotonic() - self._spoke >= _EVERY:
                self._spoke = time.monotonic()
                self.say(f"step {step} of {steps}, about {clock(event.left)} left")

    def say(self, text: str) -> None:
        """A line, unless nobody wants any."""
        if not self._quiet:
            say(printable(text))
