"""A small training on the CPU, from pairs to weights to scenes that it has never seen: RMSE against bicubic.

    python benchmarks/train_small.py ../shared/data work --methods fdsr fdkn --threads 1

Learns from generated towns (heights and temperatures), four Middlebury samples and one canopy, and is tested on another
town, as a georeferenced scene through `geosr upscale`, and on three other samples and another canopy. This is a small
training: minutes on a processor and a dozen scenes, where the papers have days on a GPU and a thousand images. It shows
that the whole chain works and learns, not what the networks can do. The same command again goes on where it was.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from real_pairs import SIDE, real_pairs

from geosr import methods
from geosr.consistency import EXACT
from geosr.device import torch_threads
from geosr.evaluation import evaluate
from geosr.methods.solve import solve
from geosr.metrics import score_arrays
from geosr.pair import Stats
from geosr.samples import TruePair

TOWNS = range(1, 9)
OTHER_TOWN = 107
SAMPLES_LEFT_OUT = 3
SCALE = 4


def make_towns(work: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
    from scene import make_scene

    for seed in (*TOWNS, OTHER_TOWN):
        if not (work / f"town{seed}" / "ortho.tif").exists():
            make_scene(work / f"town{seed}", seed=seed, size=2 * SIDE if seed == OTHER_TOWN else 480, scale=SCALE)


def samples(data: Path) -> list[str]:
    return sorted(path.stem for path in (data / "middlebury" / "guide").glob("*.png"))


def sample_files(data: Path, names: Sequence[str]) -> list[tuple[str, str]]:
    """Truth and guide of Middlebury samples."""
    folder = (data / "middlebury").resolve()
    return [(str(folder / "source_hr" / f"{name}.png"), str(folder / "guide" / f"{name}.png")) for name in names]


def write_list(path: Path, pairs: Sequence[tuple[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("source", "guide"), *pairs])
    return path


def train(method: str, scale: int, pairs: Path, weights: Path, threads: int, settings: Sequence[str]) -> None:
    """Make the weights if they are not there."""
    if not weights.exists():
        changes = [part for text in settings for part in ("--set", text)]
        how = ("--scale", scale, "--threads", threads, "--log", weights.with_suffix(".csv"), *changes)
        geosr("train", "--method", method, "--pairs", pairs, "-o", weights, *how)


def write_manifest(data: Path, work: Path) -> Path:
    towns = [(f"town{seed}/truth_{kind}.tif", f"town{seed}/ortho.tif") for seed in TOWNS for kind in ("dsm", "thermal")]
    images = sample_files(data, samples(data)[:-SAMPLES_LEFT_OUT])
    heights, photo = (
        (data / "kootenay" / f"{name}.tif").resolve() for name in ("kootenayCHM", "kootenayOrtho_from_rda")
    )
    canopy = [(str(heights), str(photo))]
    return write_list(work / "pairs.csv", [*towns, *images, *canopy])


def geosr(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "geosr", *map(str, arguments)], check=True)


def on_town(work: Path, kind: str, method: str, weights: Path | None) -> float:
    """RMSE of a whole georeferenced scene, as a user gets it."""
    town = work / f"town{OTHER_TOWN}"
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out.tif"
        given = ("--weights", weights) if weights else ()
        files = ("--source", town / f"{kind}.tif", "--guide", town / "ortho.tif", "--scale", SCALE, "-o", output)
        geosr("upscale", *files, "--method", method, *given, "--quiet")
        return evaluate(output, town / f"truth_{kind}.tif").scores.rmse or 0.0


def on_pair(true: TruePair, method: str, weights: Path | None) -> float:
    stats = Stats.robust([true.pair])
    made = methods.create(method, weights=weights)
    found = solve(true.pair, made, stats=stats, consistency=EXACT, seed=0, device="cpu")
    return score_arrays(found.values + found.centre, true.truth).rmse or 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path, help="where towns, weights and logs go")
    parser.add_argument("--methods", nargs="+", default=["fdsr"])
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the training")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    data, work = arguments.data, arguments.work
    work.mkdir(parents=True, exist_ok=True)
    make_towns(work)
    manifest = write_manifest(data, work)
    columns: dict[str, Path | None] = {"bicubic": None, "diffusion": None}
    for method in arguments.methods:
        weights = columns[method] = work / f"{method}_x{SCALE}.safetensors"
        train(method, SCALE, manifest, weights, arguments.threads, arguments.set)
    print(f"\nA small training on the CPU. RMSE at x{SCALE} on what it has not seen, projected onto the source:\n")
    print(f"| left out | {' | '.join(columns)} |\n|{'---|' * (1 + len(columns))}")
    with torch_threads(arguments.threads):
        for kind in ("dsm", "thermal"):
            errors = [on_town(work, kind, name, weights) for name, weights in columns.items()]
            print(f"| another town, {kind} | {' | '.join(f'{error:.4g}' for error in errors)} |", flush=True)
        wanted = {"neon canopy", *(f"middlebury {name}" for name in samples(data)[-SAMPLES_LEFT_OUT:])}
        for true in real_pairs(data, SCALE):
            if true.name in wanted:
                errors = [on_pair(true, name, weights) for name, weights in columns.items()]
                print(f"| {true.name} | {' | '.join(f'{error:.4g}' for error in errors)} |", flush=True)


if __name__ == "__main__":
    main()
