"""Pictures of a comparison; the only module that draws, with matplotlib from the extra `report`."""

from __future__ import annotations

import io
from collections.abc import Mapping
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from geosr.errors import UnavailableError

Array = NDArray[np.float64]


def check_drawing() -> None:
    """`UnavailableError` where matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        raise UnavailableError("drawing needs matplotlib: pip install 'geosr[report]'")


def draw_comparison(
    guide: NDArray[np.floating], source: Array, truth: Array, results: Mapping[str, Array], *, unit: str = ""
) -> bytes:
    """Guide, source and truth, then each result over its error map, as PNG.

    All maps of values share one range, the truth's from its 0.5 to its 99.5 percentile; all error maps share one, up to
    the 99th percentile of the first result's errors.

    Args:
        guide: (bands, rows, columns); the first three bands are shown as red, green and blue, else the first as grey.
        source: (h, w), NaN where invalid.
        truth: (rows, columns), NaN where unknown.
        results: (rows, columns) by title.
        unit: of the values.
    """
    from matplotlib.figure import Figure

    low, high = np.nanpercentile(truth, (0.5, 99.5))
    values = {"cmap": "viridis", "vmin": low, "vmax": high, "interpolation": "nearest"}
    worst = max((float(np.nanpercentile(np.abs(image - truth), 99)) for image in [*results.values()][:1]), default=1.0)
    errors = {"cmap": "RdBu_r", "vmin": -(worst or 1.0), "vmax": worst or 1.0, "interpolation": "nearest"}
    columns = 2 + len(results)
    figure = Figure(figsize=(3.2 * columns, 6.6), layout="constrained")
    axes = figure.subplots(2, columns)
    axes[0, 0].imshow(_colours(guide), cmap="gray")
    axes[1, 0].imshow(source, **values)
    shown = axes[0, 1].imshow(truth, **values)
    for axis, title in ((axes[0, 0], "guide"), (axes[1, 0], "source"), (axes[0, 1], "truth")):
        axis.set_title(title)
    off = None
    for column, (title, image) in enumerate(results.items(), 2):
        axes[0, column].imshow(image, **values)
        axes[0, column].set_title(title)
        off = axes[1, column].imshow(image - truth, **errors)
        axes[1, column].set_title(f"error, RMSE {np.sqrt(np.nanmean((image - truth) ** 2)):.4g}")
    for axis in axes.flat:
        axis.set_axis_off()
    figure.colorbar(shown, ax=axes[0, -1], shrink=0.8, label=unit)
    if off is not None:
        figure.colorbar(off, ax=axes[1, -1], shrink=0.8, label=unit)
    return png_of(figure)


def png_of(figure: object) -> bytes:
    """A matplotlib figure as the bytes of a PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=90)  # type: ignore[attr-defined]
    return stream.getvalue()


def _colours(guide: NDArray[np.floating]) -> Array:
    """(rows, columns, 3) or (rows, columns), from 0 to 1, each band stretched from its 1 to its 99 percentile."""
    bands = guide[:3] if len(guide) >= 3 else guide[:1]
    limits = [np.nanpercentile(band, (1, 99)) for band in bands]
    stretched = [
        np.clip((band - low) / max(high - low, 1e-12), 0, 1) for band, (low, high) in zip(bands, limits, strict=True)
    ]
    return np.stack(stretched, axis=-1) if len(stretched) == 3 else np.asarray(stretched[0], dtype=np.float64)
