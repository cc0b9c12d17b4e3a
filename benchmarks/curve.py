"""RMSE against seconds: the paper's preset and the default, from what middlebury.py prints with --trace.

    python benchmarks/middlebury.py --data ../shared/data/middlebury --trace 50 --preset paper-depth > paper.log
    python benchmarks/middlebury.py --data ../shared/data/middlebury --trace 100 > default.log
    python benchmarks/curve.py paper=paper.log default=default.log -o curve.png

Draws for each image the error of the network during its fit, projected onto the source, and of the answer at the
end; prints Markdown: the ends, and after how long each fit was first as good as the first log's answer. One thread, and
a quiet machine: the seconds are wall time (without those of the looks).
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from geosr.figures import check_drawing, png_of

_LOOK = re.compile(r"(\S+) (\d+): network (\S+) projected (\S+) (\S+) s")
_ANSWER = re.compile(r"\| (\S+) \| (\S+) \| (\S+) \| (\S+) \| (\S+) \| (\S+) \|")


@dataclass
class Fit:
    """Of one image.

    Attributes:
        looks: (seconds, RMSE) of the network during the fit, projected onto the source.
        end: the same of the answer.
        raw: RMSE of the answer as it is.
    """

    looks: list[tuple[float, float]] = field(default_factory=list)
    end: tuple[float, float] = (0.0, 0.0)
    raw: float = 0.0

    def reaches(self, rmse: float) -> float | None:
        """Seconds until it was first as good as that; None where it never was."""
        return next((seconds for seconds, found in [*self.looks, self.end] if found <= rmse), None)


def read(log: Path) -> dict[str, Fit]:
    """The fits of a log by image, as far as they came to their end."""
    fits: dict[str, Fit] = {}
    ended = []
    for line in log.read_text().splitlines():
        if look := _LOOK.fullmatch(line):
            fits.setdefault(look[1], Fit()).looks.append((float(look[5]), float(look[4])))
        elif (answer := _ANSWER.fullmatch(line)) and answer[1] in fits:
            fit = fits[answer[1]]
            fit.end, fit.raw = (float(answer[6]), float(answer[5])), float(answer[4])
            ended.append(answer[1])
    if not ended:
        raise SystemExit(f"{log} holds no fit that came to its end; was middlebury.py called with --trace?")
    return {name: fits[name] for name in ended}


def draw(logs: Mapping[str, Mapping[str, Fit]], names: Sequence[str]) -> bytes:
    """A panel an image, as PNG."""
    from matplotlib.figure import Figure

    columns = min(len(names), 4)
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(4 * columns, 3.2 * rows), layout="constrained")
    for place, name in enumerate(names, 1):
        panel = figure.add_subplot(rows, columns, place)
        for label, fits in logs.items():
            (line,) = panel.plot(*zip(*fits[name].looks, strict=True), label=label)
            panel.plot(*fits[name].end, "o", color=line.get_color())
        panel.set(title=name, xscale="log", xlabel="seconds", ylabel="RMSE, disparity")
        panel.legend()
    return png_of(figure)


def table(logs: Mapping[str, Mapping[str, Fit]], names: Sequence[str]) -> str:
    """Markdown."""
    first = next(iter(logs))
    lines = [
        f"| image | fit | seconds | RMSE | projected | s to {first}'s RMSE | s to {first}'s projected |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in names:
        aim = logs[first][name]
        for label, fits in logs.items():
            fit = fits[name]
            reached = " | ".join(_seconds(fit.reaches(rmse)) for rmse in (aim.raw, aim.end[1]))
            lines.append(f"| {name} | {label} | {fit.end[0]:.1f} | {fit.raw:.3f} | {fit.end[1]:.3f} | {reached} |")
    return "\n".join(lines)


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("logs", nargs="+", metavar="LABEL=LOG", help="the first is what the others are held against")
    parser.add_argument("-o", "--output", type=Path, required=True, help="PNG to write")
    arguments = parser.parse_args()
    check_drawing()
    logs = {label: read(Path(log)) for label, _, log in (text.partition("=") for text in arguments.logs)}
    names = [name for name in next(iter(logs.values())) if all(name in fits for fits in logs.values())]
    if not names:
        raise SystemExit("no image is in all of the logs")
    arguments.output.write_bytes(draw(logs, names))
    print(table(logs, names))


if __name__ == "__main__":
    main()
