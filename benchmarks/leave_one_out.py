"""What choosing a diffusion setting on the samples is worth: for each sample, chosen on the others.

python benchmarks/leave_one_out.py --data ../shared/data/middlebury --scale 4 value_contrast 0.01 0.02 0.04

Prints RMSE for every value, and the mean with the value for each sample chosen by the mean of the others.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from middlebury import Sample

from geosr.datasets import middlebury
from geosr.methods.diffusion import create


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder with guide/ and source_hr/")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("setting")
    parser.add_argument("values", type=float, nargs="+")
    arguments = parser.parse_args()
    samples = [Sample(image.read(arguments.scale)) for image in middlebury(arguments.data)]
    errors = np.zeros((len(arguments.values), len(samples)))
    for row, value in enumerate(arguments.values):
        method = create("default", {arguments.setting: value, "belief": "full"})
        for column, sample in enumerate(samples):
            errors[row, column] = sample.errors(
                method.predict(sample.patch, method.fit([sample.patch], 0, "cpu"), "cpu").values
            )[1]
        print(f"{arguments.setting} {value:g}: mean {errors[row].mean():.3f}")
    others = errors.sum(axis=1, keepdims=True) - errors
    chosen = others.argmin(axis=0)
    picks = ", ".join(f"{sample.name} {arguments.values[pick]:g}" for sample, pick in zip(samples, chosen, strict=True))
    print(f"leave one out: mean {errors[chosen, np.arange(len(samples))].mean():.3f} ({picks})")


if __name__ == "__main__":
    main()
