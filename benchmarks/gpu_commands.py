"""What `geosr upscale` promises of GPUs and batches, by the command itself, and whether it holds.

    PYTHONPATH=examples python benchmarks/gpu_commands.py dsm.tif ortho.tif -o FOLDER --truth truth_dsm.tif

For tiles of 256 x 256 output pixels, some lines a run: its exit code, seconds, batches, notes and error, and whether
its output has the bytes of another where that is promised:

1. a tile at a time, 2. `--batch` of them together;
3. the same on `--scheduler processes --gpus all`: the same bytes;
4. the same again, killed with SIGKILL when more tiles than a batch are done, and started once more: whole batches are
   resumed, and the same bytes;
5. without `--batch`, so that the free memory decides: more than one tile at a time;
6. batches of another network, then again with most of the card's memory held by a second process: halved, all done.

On the CPU (`--device cpu`) 3 and 4 go without `--gpus`, and 5 and 6 are left out. The exit code is 1 where anything did
not hold. It is this repository's geosr that runs; none need be installed.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from helpers import read, rmse

LIMIT = 150.0  # seconds of a run
TILE = ("--tile", "256", "--fit", "tile")
ABOUT = """
import sys, torch
from geosr.methods import gpu_kernels, neighbourhood
try:
    from triton import __version__ as triton
except ImportError:
    triton = "none"
card = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
print(f"card: {card}; torch: {torch.__version__}; Triton: {triton}; kernels: {neighbourhood.kernels(sys.argv[1])}")
if sys.argv[1] != "cpu" and gpu_kernels.missing():
    print("the GPU's kernels are not used:", gpu_kernels.missing())
"""
HOLD = """
import sys, torch
amount = torch.cuda.mem_get_info()[0] - float(sys.argv[1]) * 1e9
held = torch.empty(max(int(amount), 1), dtype=torch.uint8, device="cuda")
print(torch.cuda.mem_get_info()[0] / 1e9, flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Checks:
    """The runs: what all of them read, where they write, their environment, and what did not hold."""

    source: Path
    guide: Path
    truth: Path | None
    folder: Path
    environment: Mapping[str, str]
    failures: list[str] = field(default_factory=list)

    def command(self, name: str, options: Sequence[str]) -> list[str]:
        """Of the run of that name."""
        files = {"--source": self.source, "--guide": self.guide, "-o": self.output(name), "--report": self.report(name)}
        given = [str(part) for option in files.items() for part in option]
        return [sys.executable, "-m", "geosr", "upscale", *given, "--scale", "4", "--overwrite", *TILE, *options]

    def output(self, name: str) -> Path:
        """Of the run of that name."""
        return self.folder / f"{name}.tif"

    def report(self, name: str) -> Path:
        """Of the run of that name."""
        return self.folder / f"{name}.json"

    def expect(self, holds: bool, promise: str) -> None:
        """Keep what does not hold, and say so."""
        if not holds:
            self.failures.append(promise)
            print(f"  DOES NOT HOLD: {promise}", flush=True)

    def run(self, name: str, options: Sequence[str], same_as: str | None = None) -> dict[str, Any] | None:
        """Run the command anew, print what became of it, and return its report; None where it failed."""
        self._forget(name)
        return self._run(name, options, same_as)

    def killed(self, name: str, options: Sequence[str], batch: int, workers: int, same_as: str) -> None:
        """Run it, kill it where at least one batch is done, whichever worker has it, and run it again."""
        self._forget(name)
        process, stop = self._start(name, options), time.monotonic() + LIMIT
        try:
            while process.poll() is None and time.monotonic() < stop and self._tiles(name) <= batch * workers:
                time.sleep(0.02)
        finally:
            _kill(process)
        process.communicate()
        done = self._tiles(name)
        print(f"{name}: killed with {done} tiles done, exit code {process.returncode}", flush=True)
        in_time = process.returncode == -signal.SIGKILL and done > batch * workers
        self.expect(in_time, f"{name}: in work when more than {batch * workers} tiles were done")
        tiles = (self._run(name, options, same_as) or {"tiles": {"resumed": 0}})["tiles"]
        whole = tiles["resumed"] > 0 and tiles["resumed"] % batch == 0
        self.expect(whole, f"{name}: whole batches are resumed, and there are {tiles['resumed']} tiles")

    def _run(self, name: str, options: Sequence[str], same_as: str | None) -> dict[str, Any] | None:
        start, process = time.perf_counter(), self._start(name, options)
        try:
            said, _ = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            _kill(process)
            said = f"{process.communicate()[0]}\nkilled after {LIMIT:.0f} s"
        finally:
            _kill(process)  # also where this script is interrupted
        code, seconds = process.returncode, time.perf_counter() - start
        print(f"{name}: {shlex.join(options)}\n  exit code {code}, {seconds:.1f} s", flush=True)
        if said.strip():
            print("  " + said.strip().replace("\n", "\n  "), flush=True)
        worked = code == 0 and self.report(name).exists()
        self.expect(worked, f"{name}: exit code 0 and a report")
        found: dict[str, Any] | None = json.loads(self.report(name).read_text()) if worked else None
        if found:
            print("  " + "; ".join(self._facts(name, found)), flush=True)
        if same_as:
            files = self.output(name), self.output(same_as)
            same = all(file.exists() for file in files) and files[0].read_bytes() == files[1].read_bytes()
            self.expect(same, f"{name}: the bytes of {same_as}")
        return found

    def _facts(self, name: str, found: Mapping[str, Any]) -> Iterator[str]:
        tiles, batches = found["tiles"], found["batches"]
        yield f"tiles: {tiles['total']}, resumed: {tiles['resumed']}, fits: {found['seconds'].get('tiles', 0):.1f} s"
        yield f"batches: {batches['planned']} planned, smaller: {[tile['batch'] for tile in batches['smaller']]}"
        if self.truth:
            yield f"RMSE: {rmse(read(self.output(name)), read(self.truth)):.4f}"

    def _start(self, name: str, options: Sequence[str]) -> subprocess.Popen[str]:
        """In a group of its own, with all its workers; nothing of an earlier run is taken for this one's."""
        for path in (self.output(name), self.report(name)):
            path.unlink(missing_ok=True)
        pipe, environment = subprocess.PIPE, dict(self.environment)
        return subprocess.Popen(
            self.command(name, options),
            stdout=pipe,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            start_new_session=True,
        )

    def _forget(self, name: str) -> None:
        """What an earlier run of that name left unfinished."""
        for path in self.folder.glob(f".{name}.tif-*.geosr"):
            shutil.rmtree(path)

    def _tiles(self, name: str) -> int:
        """Finished ones in the run folder."""
        return sum(1 for _ in self.folder.glob(f".{name}.tif-*.geosr/tiles/*.tile"))


def _kill(process: subprocess.Popen[str]) -> None:
    """With its workers."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def importable() -> Iterator[Mapping[str, str]]:
    """The environment for processes that import geosr: the folder `cli` is its package `geosr_cli` once installed."""
    repository = Path(__file__).parents[1]
    with TemporaryDirectory() as folder:
        Path(folder, "geosr_cli").symlink_to(repository / "cli")
        path = str(repository), folder, os.environ.get("PYTHONPATH", "")
        yield os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))}


@contextmanager
def held_but(left: float, environment: Mapping[str, str]) -> Iterator[float | None]:
    """A process that holds all of the card's free memory but so many GB; what is free then, None where it failed."""
    command, pipe = [sys.executable, "-c", HOLD, str(left)], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=dict(environment)) as holder:
        assert holder.stdout
        said = holder.stdout.readline()
        try:
            yield float(said) if said else None
        finally:
            holder.kill()


def check_little_memory(checks: Checks, left: float, options: Sequence[str]) -> None:
    """The same with all of the card's memory and with so many GB of it."""
    checks.run("enough-memory", options)
    with held_but(left, checks.environment) as free:
        checks.expect(free is not None, "little-memory: a second process holds the card's memory")
        if free is None:
            return
        print(f"free from now on: {free:.2f} GB", flush=True)
        found = checks.run("little-memory", options)
    checks.expect(bool(found and found["batches"]["smaller"]), "little-memory: batches are halved")
    outputs = checks.output("little-memory"), checks.output("enough-memory")
    if all(output.exists() for output in outputs):
        print(f"  RMS of the difference from enough-memory: {rmse(*map(read, outputs)):.4g}", flush=True)


def check_all(checks: Checks, device: str, batch: int, epochs: int, left: float) -> None:
    fits = ["--set", f"epochs={epochs}"]
    together = [*fits, "--batch", str(batch)]
    gpus = ["--scheduler", "processes", "--gpus", "all"]
    where = ["--scheduler", "processes", "--workers", "1", "--device", "cpu"] if device == "cpu" else gpus
    checks.run("alone", [*fits, "--batch", "1", "--device", device])
    checks.run("together", [*together, "--device", device])
    spread = checks.run("processes", [*together, *where], same_as="together")
    checks.killed("killed", [*together, *where], batch, spread["workers"] if spread else 1, same_as="together")
    if device == "cpu":
        return
    planned = checks.run("planned", [*fits, *gpus])
    checks.expect(bool(planned and planned["batches"]["planned"] > 1), "planned: several tiles at a time")
    network = ["--preset", "paper-depth", "--set", "epochs=5", "--batch", "16", "--device", device]
    check_little_memory(checks, left, network)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("source", type=Path)
    parser.add_argument("guide", type=Path)
    parser.add_argument("--truth", type=Path, help="to tell errors by")
    parser.add_argument("-o", "--folder", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--leave", type=float, default=3.0, help="GB of the card that the last run finds")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with importable() as environment:
        checks = Checks(arguments.source, arguments.guide, arguments.truth, arguments.folder, environment)
        about = [sys.executable, "-c", ABOUT, arguments.device]
        named = subprocess.run(about, env=dict(environment), check=False).returncode == 0
        checks.expect(named, "geosr can be imported")
        check_all(checks, arguments.device, arguments.batch, arguments.epochs, arguments.leave)
    if checks.failures:
        raise SystemExit("\n".join(["these do not hold:", *checks.failures]))


if __name__ == "__main__":
    main()
