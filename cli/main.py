"""The command `geosr`."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

import click

from geosr import __version__
from geosr.errors import GeosrError, OutputError
from geosr.raster_guard import show

from .interrupt import Interruption
from .render import INTERRUPTED, say

_COMMANDS = {
    "upscale": "Make the coarse raster sharper, with the image as a guide.",
    "batch": "The same for many pairs: a folder, a list, a data set; with a table at the end.",
    "info": "Look at a pair first: do the two fit, and what would be done?",
    "assess": "Find out what to expect: methods on the pair pooled once, where the truth is known.",
    "evaluate": "Measure a result against the truth, or rerun a paper's table on its data set.",
    "compare": "Run methods side by side on a pair: errors, seconds, memory, and a picture.",
    "train": "Train a network on pairs with a known truth, for fdsr, fdkn and dkn.",
    "tile": "Write the pair as aligned tiles, for looking at, labelling or training.",
    "quicklook": "Draw a raster as a picture.",
    "thermal": "Make temperatures out of Landsat's thermal digital numbers, to be a source.",
    "methods": "List the methods and their presets.",
}
_FOLDER = "several files of one raster are given as their folder"
_BROKEN_PIPE = 141  # what a shell reports of a command whose reader has left


class _Commands(click.Group):
    """Loads a command's module only when it is called, so that `--help` needs nothing heavy."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = import_module(f".{cmd_name}", __package__).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`geosr COMMAND --help` explains a command. Exit codes: 0 done, 1 a fault of geosr, 2 wrong usage, "
    "3 a raster was refused, 4 method, device or scheduler not available, 5 some tiles failed, 6 the output could not "
    "be written, 130 interrupted.",
)
@click.version_option(__version__, prog_name="geosr")
def cli() -> None:
    """Guided super-resolution of georeferenced rasters.

    Give it a coarse raster (elevations, canopy heights, temperatures) and a sharp image of the same ground:
    geosr writes the coarse raster at the finer resolution, true to its values and exactly in its place.

    \b
      geosr info dsm.tif ortho.tif
      geosr upscale --source dsm.tif --guide ortho.tif --scale 4 -o dsm_x4.tif
    """  # noqa: D301


def main() -> None:
    """The script's entry: `run` with the process's arguments, streams and signals, then the end of the process."""
    _prepare_streams()
    _wait_politely()
    Interruption().begin()
    _leave(run(sys.argv[1:]))


def _wait_politely() -> None:
    """Threads that wait for each other sleep: OpenMP reads it when torch is loaded, and worker processes inherit it.

    By default they spin, and where other work takes their turn a fit on two threads took 3 to 8 times as long (a step
    0.40 to 1.21 s in place of 0.14 s; with the machine alone 0.073 to 0.079 s in place of 0.066 to 0.074 s).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def run(arguments: Sequence[str]) -> int:
    """Run a command line; what goes wrong becomes a line on stderr.

    Returns:
        0 done, 1 a bug, 2 usage, 3 input refused, 4 method, device or scheduler unavailable, 5 tiles failed, 6 output
        not written, stdout included, 130 interrupted, 141 the reader of stdout has left.
    """
    try:
        code = cli.main(list(arguments), prog_name="geosr", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f"; see '{context.command_path} --help'" if context else ""
        text = error.format_message().rstrip(".")
        if "unexpected extra argument" in text:  # what a shell makes of tiles/*.tif
            patterns = context is not None and context.info_name == "batch"
            advice = "quote the pattern: --source 'dsm/*_DSM.tif'" if patterns else _FOLDER
            text = f"{show(text)}; {advice}"
        say(f"Error: {text}{hint}")
        return error.exit_code
    except (click.Abort, KeyboardInterrupt) as error:
        say("; ".join(("interrupted", *(_notes(error) or ["nothing was written"]))))
        return INTERRUPTED
    except GeosrError as error:
        say("\n".join((f"Error: {error}", *_notes(error))))
        return error.exit_code
    except (BrokenPipeError, SystemExit):  # click makes the second out of the first
        return _BROKEN_PIPE
    except Exception as error:
        if isinstance(error, OSError) and _came_of_printing(error):
            say("\n".join((f"Error: standard output: {error.strerror or error}", *_notes(error))))
            return OutputError.exit_code
        say(traceback.format_exc())  # notes included
        say("This is a fault of geosr; please report it with the lines above.")
        return 1
    return code if isinstance(code, int) else 0


def _came_of_printing(error: OSError) -> bool:
    """Whether stdout refused, a full disk under it say: click prints all that goes there, and `say` bears the rest."""
    return any(frame.f_code is click.echo.__code__ for frame, _ in traceback.walk_tb(error.__traceback__))


def _notes(error: BaseException) -> list[str]:
    """What the library added to an error: where finished tiles are kept. click makes its own out of Ctrl-C."""
    return [*getattr(error.__cause__ if isinstance(error, click.Abort) else error, "__notes__", ())]


def _prepare_streams() -> None:
    """No text of a file can break the printing: what a stream cannot show is escaped, a closed one swallows."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  also keeps its number from a raster
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _leave(code: int) -> None:
    """Leave at once: tiles still in progress on other threads are not waited for; scratch is gone by now."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        code = code or _BROKEN_PIPE
    with suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
