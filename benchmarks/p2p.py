"""P2P fitted by the plain loop, as it is usually written, and by geosr, from the same settings, in turns.

    python benchmarks/p2p.py ../shared/data --scale 4 --steps 32768 --plain-steps 256 --only vhm

The yardstick cuts the guide into one patch for each source pixel, hands them out through torch's DataLoader, and sends
them through 1 x 1 convolutions with autograd. Both draw weights and batches of their own. Prints Markdown: processor
seconds of fit and prediction on one thread, their ratio, and RMSE raw and projected onto the source, for
both at the paper's settings (but for --steps) and for geosr's default. All steps of the plain loop take the same time:
with --plain-steps it does only so many, and the seconds of its fit are counted in proportion. Ours become faster as the
weight decay silences features, so that it needs all of them.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch
from middlebury import Sample
from real_pairs import real_pairs
from torch import nn

from geosr.device import torch_threads
from geosr.methods import p2p_network
from geosr.methods.base import FloatArray, Patch
from geosr.methods.p2p_settings import PRESETS, P2pSettings


class PlainNetwork(nn.Module):
    """One branch for colour, one for place, summed, and a head: all convolutions of one pixel."""

    def __init__(self, bands: int, settings: P2pSettings) -> None:
        super().__init__()
        narrow, wide = settings.channels, settings.hidden
        self.colour, self.place = (
            nn.Sequential(nn.Conv2d(inputs, narrow, 1), nn.ReLU(), nn.Conv2d(narrow, wide, 1)) for inputs in (bands, 2)
        )
        self.head = nn.Sequential(nn.ReLU(), nn.Conv2d(wide, narrow, 1), nn.ReLU(), nn.Conv2d(narrow, 1, 1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:  # noqa: D102
        values: torch.Tensor = self.head(self.colour(image[:, :-2]) + self.place(image[:, -2:]))
        return values

    def optimiser(self, settings: P2pSettings) -> torch.optim.Adam:
        """Adam with the published weight decay of each part."""
        decays = settings.position_decay, settings.guide_decay, settings.head_decay
        parts = zip((self.place, self.colour, self.head), decays, strict=True)
        groups = [{"params": part.parameters(), "weight_decay": decay} for part, decay in parts]
        return torch.optim.Adam(groups, lr=settings.learning_rate)


def plain_fit(patch: Patch, settings: P2pSettings, seed: int) -> tuple[PlainNetwork, torch.Tensor]:
    """The yardstick: the network, and the image that it looks at."""
    torch.manual_seed(seed)
    scale, (rows, cols) = patch.scale, patch.source.shape
    places = torch.meshgrid(*(torch.linspace(-0.5, 0.5, side) for side in patch.guide_valid.shape), indexing="ij")
    image = torch.cat((torch.from_numpy(patch.guide), torch.stack(places)))
    corners = [(row * scale, col * scale) for row in range(rows) for col in range(cols)]
    patches = torch.stack([image[:, row : row + scale, col : col + scale] for row, col in corners])
    data = torch.utils.data.TensorDataset(patches, torch.from_numpy(patch.source).reshape(-1, 1))
    loader = torch.utils.data.DataLoader(data, batch_size=settings.batch, shuffle=True)
    net = PlainNetwork(len(patch.guide), settings)
    optimiser, step = net.optimiser(settings), 0
    while step < settings.steps:
        for inputs, means in loader:
            if step == settings.steps:
                break
            optimiser.zero_grad()
            nn.functional.l1_loss(net(inputs).mean((2, 3)), means).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            step += 1
    return net, image


def plain(patch: Patch, settings: P2pSettings, seed: int, steps: int) -> tuple[float, FloatArray]:
    """Processor seconds that all steps take, and values after `steps`."""
    start = time.process_time()
    net, image = plain_fit(patch, replace(settings, steps=steps), seed)
    fitted = time.process_time()
    with torch.no_grad():
        values: FloatArray = torch.cat([net(part) for part in torch.split(image[None], 32, 2)], 2)[0, 0].numpy()
    return (fitted - start) * settings.steps / steps + time.process_time() - fitted, values


def ours(patch: Patch, settings: P2pSettings, seed: int) -> tuple[float, FloatArray]:
    start = time.process_time()
    values = p2p_network.predict(patch, p2p_network.fit(patch, settings, seed, "cpu"), "cpu")
    return time.process_time() - start, values


def errors(sample: Sample, values: FloatArray) -> str:
    """RMSE raw and projected onto the source."""
    return " / ".join(f"{error:.3f}" for error in sample.errors(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path)
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--steps", type=int, default=PRESETS["paper"].steps)
    parser.add_argument("--plain-steps", type=int, help="of the plain loop; as many where not given")
    parser.add_argument("--only", nargs="*", default=["p2p"], help="parts of the pairs' names")
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    paper = replace(PRESETS["paper"], steps=arguments.steps)
    plain_steps = arguments.plain_steps or paper.steps
    print("| pair | plain s | ours s | ratio | plain RMSE | ours RMSE | default s | default RMSE |")
    print("|---" * 8 + "|")
    for true in real_pairs(arguments.data, arguments.scale):
        if not any(part in true.name for part in arguments.only):
            continue
        sample = Sample(true)
        for seed in range(arguments.rounds):
            with torch_threads(1):
                plain_s, theirs = plain(sample.patch, paper, seed, plain_steps)
                ours_s, same = ours(sample.patch, paper, seed)
                default_s, default = ours(sample.patch, PRESETS["default"], seed)
            plain_error = errors(sample, theirs) if plain_steps == paper.steps else "-"
            times = f"{plain_s:.1f} | {ours_s:.1f} | {plain_s / ours_s:.1f}"
            found = f"{plain_error} | {errors(sample, same)} | {default_s:.1f} | {errors(sample, default)}"
            print(f"| {true.name} | {times} | {found} |", flush=True)


if __name__ == "__main__":
    main()
