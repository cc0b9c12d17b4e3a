"""The command `geosr`."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from importlib import import_module
from types import FrameType

import click

from geosr import __version__
from geosr.errors import GeosrError

_COMMANDS = {
    "upscale": "Give a coarse raster the resolution of a sharp image of the same ground.",
    "info": "Say what is in a pair, how it fits together and what would be done.",
    "tile": "Write the aligned pairs of tiles, for looking at, labelling or training.",
    "methods": "List the methods.",
}


class _Commands(click.Group):
    """Loads a command's module only when it is called, so that `--help` needs nothing heavy."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = import_module(f"geosr_cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="geosr")
def cli() -> None:
    """Guided super-resolution of georeferenced rasters.

    A coarse elevation model, canopy height or thermal raster, and a sharp orthophoto of the same ground:
    geosr writes the coarse raster at a finer resolution, true to its values and in place.

    \b
      geosr info dsm.tif ortho.tif
      geosr upscale --source dsm.tif --guide ortho.tif --scale 4 -o dsm_x4.tif
    """


def main() -> None:
    """Run the command; every ending has its exit code.

    0 done, 1 a bug, 2 usage, 3 input refused, 4 method or device unavailable, 5 tiles failed, 6 output
    not written, 130 interrupted.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = cli.main(standalone_mode=False)
        _leave(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        error.show()
        _leave(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted; nothing was written", err=True)
        _leave(130)
    except GeosrError as error:
        click.echo(f"Error: {error}", err=True)
        _leave(error.exit_code)
    except BrokenPipeError:
        _leave(141)
    except Exception:
        traceback.print_exc()
        click.echo("This is a fault of geosr; please report it with the lines above.", err=True)
        _leave(1)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _leave(code: int) -> None:
    """Leave at once: tiles still in work on other threads are not waited for; scratch is gone by now."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            code = code or 141
    os._exit(code)
