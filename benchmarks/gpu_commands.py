"""What `geosr upscale` promises of GPUs and batches, by the command itself, and whether it holds.

    PYTHONPATH=examples python benchmarks/gpu_commands.py dsm.tif ortho.tif -o FOLDER --truth truth_dsm.tif

For tiles of 256 x 256 output pixels, one line a run: its exit code, seconds, error and notes, and where it is
promised whether its output has the bytes of another:

1. a tile at a time, 2. `--batch` of them together;
3. the same on `--scheduler processes --gpus all`: the same bytes;
4. the same again, killed with SIGKILL after the first batch and started once more: the same bytes;
5. batches of another network that the card has no memory for, most of which a second process holds: halved, all done.

On the CPU (`--device cpu`) 3 goes without `--gpus`, and 5 is left out.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from helpers import read, rmse
from scale import upscale

TILE = ("--tile", "256", "--fit", "tile")
HOLD = """
import sys, torch
held = torch.empty(int(sys.argv[1]), dtype=torch.uint8, device="cuda")
print(flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Scene:
    """What all runs read, and where they write."""

    source: Path
    guide: Path
    truth: Path | None
    folder: Path

    def command(self, name: str, options: Sequence[str]) -> list[str | Path]:
        """Of the run of that name."""
        report = "--report", str(self.report(name))
        return upscale(self.source, self.guide, self.output(name), *TILE, *report, *options)

    def output(self, name: str) -> Path:
        """Of the run of that name."""
        return self.folder / f"{name}.tif"

    def report(self, name: str) -> Path:
        """Of the run of that name."""
        return self.folder / f"{name}.json"

    def run(self, name: str, options: Sequence[str], same_as: str | None = None) -> None:
        """Run the command and print what became of it."""
        start = time.perf_counter()
        done = subprocess.run(self.command(name, options), capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
        print(f"{name}: {shlex.join(options)}\n  exit code {done.returncode}, {seconds:.1f} s", end="")
        if done.returncode == 0:
            found = json.loads(self.report(name).read_text())
            print(f", fits {found['seconds'].get('tiles', 0):.1f} s, {json.dumps(found.get('batches'))}", end="")
            if self.truth:
                print(f", RMSE {rmse(read(self.output(name)), read(self.truth)):.4f}", end="")
        if same_as:
            same = self.output(name).exists() and self.output(name).read_bytes() == self.output(same_as).read_bytes()
            print(f", the bytes of {same_as}: {'yes' if same else 'NO'}", end="")
        print(f"\n  {done.stderr.strip()}" if done.stderr.strip() else "", flush=True)

    def kill_after_first_tiles(self, name: str, options: Sequence[str]) -> None:
        """Start the command and kill it as soon as its run folder holds a finished tile."""
        process = subprocess.Popen(self.command(name, options), start_new_session=True)
        while process.poll() is None and not any(self.folder.glob(f".{name}.tif-*.geosr/tiles/*")):
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        print(f"{name}: killed, exit code {process.wait()}", flush=True)


@contextmanager
def held_but(left: float) -> Iterator[None]:
    """A process that holds all of the card's free memory but so many GB."""
    import torch

    free, _ = torch.cuda.mem_get_info()
    amount = max(int(free - left * 1e9), 1)
    command = [sys.executable, "-c", HOLD, str(amount)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        holder.stdout.readline()
        try:
            yield
        finally:
            holder.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("source", type=Path)
    parser.add_argument("guide", type=Path)
    parser.add_argument("--truth", type=Path, help="to tell errors by")
    parser.add_argument("-o", "--folder", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=1000)
    parser.add_argument("--leave", type=float, default=3.0, help="GB of the card that the last run finds")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    scene = Scene(arguments.source, arguments.guide, arguments.truth, arguments.folder)
    on_card = arguments.device != "cpu"
    fits = ["--set", f"epochs={arguments.epochs}"]
    together = [*fits, "--batch", str(arguments.batch)]
    spread = [*together, "--scheduler", "processes", *(["--gpus", "all"] if on_card else ["--device", "cpu"])]
    scene.run("alone", [*fits, "--batch", "1", "--device", arguments.device])
    scene.run("together", [*together, "--device", arguments.device])
    scene.run("processes", spread, same_as="together")
    scene.kill_after_first_tiles("killed", spread)
    scene.run("killed", spread, same_as="together")
    if on_card:
        with held_but(arguments.leave):
            network = ["--preset", "paper-depth", "--set", "epochs=5", "--batch", "16"]
            scene.run("little-memory", [*network, "--device", arguments.device])


if __name__ == "__main__":
    main()
