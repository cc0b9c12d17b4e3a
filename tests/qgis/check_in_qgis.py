"""Open the outputs of `make_outputs.py` in a real QGIS, without a screen: `check_in_qgis.py FOLDER`.

Runs on the Python that Debian's python3-qgis is for, so it has PyQGIS, PyQt and GDAL, numpy, and nothing of geosr.
Prints a line for each output and leaves pictures in the folder; the exit code is 1 if anything is wrong.
"""

import json
import math
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from osgeo import gdal
from qgis.core import (
    Qgis,
    QgsApplication,
    QgsContrastEnhancement,
    QgsCoordinateReferenceSystem,
    QgsMapRendererCustomPainterJob,
    QgsMapSettings,
    QgsPointXY,
    QgsRasterLayer,
    QgsRectangle,
    QgsSingleBandGrayRenderer,
)
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor, QImage, QPainter

SCALE = 4
WIDTH = 768  # of the rendered pictures: four pixels to one of the output, sixteen to one of the source
RAMPS = {"m": "#4d7f73", "metre": "#4d7f73", "K": "#1d1147", "degrees Celsius": "#1d1147"}


class Complaints(list):
    """What is wrong with one output."""

    def check(self, truth, words):
        if not truth:
            self.append(words)


def close(a, b, tolerance):
    return all(abs(x - y) <= tolerance for x, y in zip(a, b, strict=True))


def check_layer(layer, path, true, wrong):
    provider, crs = layer.dataProvider(), QgsCoordinateReferenceSystem.fromWkt(true["crs"])
    pixel = true["pixel"]
    box = layer.extent()
    found = [box.xMinimum(), box.yMinimum(), box.xMaximum(), box.yMaximum()]
    # a rotated raster comes as its upright box, in whole pixels
    wrong.check(close(found, true["box"], 1e-3 * pixel if true["north_up"] else pixel), f"extent {found}")
    wrong.check(crs.isValid() and layer.crs() == crs, f"CRS {layer.crs().authid()} {layer.crs().description()}")
    if true["north_up"]:
        wrong.check([layer.width(), layer.height()] == true["size"], f"size {layer.width()} x {layer.height()}")
    wrong.check(layer.bandName(1) == f"Band 1: {true['name']}", f"band name {layer.bandName(1)}")
    dataset = gdal.Open(str(path))  # a band does not keep its dataset alive
    unit = dataset.GetRasterBand(1).GetUnitType()
    wrong.check(unit == true["units"], f"unit {unit}")
    compound = bool(dataset.GetSpatialRef().IsCompound())  # QGIS itself leaves the vertical part out
    wrong.check(compound == true["compound"], f"compound CRS: {compound}")
    wrong.check(provider.sourceHasNoDataValue(1) == true["has_nodata"], "nodata is not declared")
    if true["has_nodata"]:
        nodata = provider.sourceNoDataValue(1)
        same = math.isnan(nodata) if true["nodata"] is None else nodata == true["nodata"]
        wrong.check(same, f"nodata {nodata}")
    if true["hole"]:
        value, known = provider.sample(QgsPointXY(*true["hole"]), 1)
        wrong.check(not known or math.isnan(value), f"{value} where there is no data")
    for x, y, expected in true["points"]:
        value, known = provider.sample(QgsPointXY(x, y), 1)
        wrong.check(known and abs(value - expected) < 1e-4 * abs(expected), f"{value} at {x}, {y} and not {expected}")


def check_stretch(path, true, wrong):
    """Without the style beside it: what QGIS makes of the file by itself."""
    with tempfile.TemporaryDirectory() as folder:
        bare = shutil.copy(path, folder)
        layer = QgsRasterLayer(bare, "bare")
        wrong.check(isinstance(layer.renderer(), QgsSingleBandGrayRenderer), f"renderer {layer.renderer().type()}")
        stretch = layer.renderer().contrastEnhancement()
        low, high = stretch.minimumValue(), stretch.maximumValue()
        span = true["range"][1] - true["range"][0]
        inside = true["range"][0] - 0.01 * span <= low < high <= true["range"][1] + 0.01 * span
        wrong.check(inside and high - low > 0.5 * (true["cut"][1] - true["cut"][0]), f"stretch {low} to {high}")
    return low, high


def check_style(layer, true, wrong):
    """The style beside the file is taken by itself."""
    renderer = layer.renderer()
    if renderer.type() != "singlebandpseudocolor":
        wrong.append(f"the style was not taken: {renderer.type()}")
        return
    items = renderer.shader().rasterShaderFunction().colorRampItemList()
    wrong.check(close((items[0].value, items[-1].value), true["cut"], 1e-3 * (true["cut"][1] - true["cut"][0])),
                f"ramp from {items[0].value} to {items[-1].value}")  # fmt: skip
    wrong.check(items[0].color.name() == RAMPS[true["units"]], f"colours of the ramp: {items[0].color.name()}")


def render(layers, extent, crs, path):
    """The layers as QGIS draws them, as (rows, columns, 3) and as a picture."""
    settings = QgsMapSettings()
    settings.setLayers(layers)
    settings.setDestinationCrs(crs)
    settings.setExtent(extent)
    settings.setOutputSize(QSize(WIDTH, round(WIDTH * extent.height() / extent.width())))
    settings.setBackgroundColor(QColor("white"))
    image = QImage(settings.outputSize(), QImage.Format_RGB32)
    image.fill(QColor("white"))
    painter = QPainter(image)
    job = QgsMapRendererCustomPainterJob(settings, painter)
    job.start()
    job.waitForFinished()
    painter.end()
    image.save(str(path))
    bits = image.constBits()
    bits.setsize(image.sizeInBytes())
    return np.frombuffer(bytes(bits), np.uint8).reshape(image.height(), image.width(), 4)[..., :3].astype(float)


def black_and_white(layer, threshold):
    """Draw the layer black below the threshold and white above."""
    renderer = QgsSingleBandGrayRenderer(layer.dataProvider(), 1)
    contrast = QgsContrastEnhancement(layer.dataProvider().dataType(1))
    contrast.setMinimumValue(threshold - 1e-3)
    contrast.setMaximumValue(threshold + 1e-3)
    contrast.setContrastEnhancementAlgorithm(QgsContrastEnhancement.StretchToMinimumMaximum)
    renderer.setContrastEnhancement(contrast)
    layer.setRenderer(renderer)


def check_alignment(folder, output, true, wrong):
    """The hall lies at the same place in source, output and guide, in pictures rendered one by one."""
    crs, extent = output.crs(), QgsRectangle(*true["box"])
    plain = QgsRasterLayer(str(folder / "out.tif"), "plain")
    source, guide = (QgsRasterLayer(str(folder / f"{name}.tif"), name) for name in ("source", "guide"))
    if not guide.crs().isValid() or not source.crs().isValid():
        wrong.append("source or guide has no CRS in QGIS")
        return []
    rows, cols = round(WIDTH * extent.height() / extent.width()), WIDTH
    across, down = np.meshgrid((np.arange(cols) + 0.5) / cols, (np.arange(rows) + 0.5) / rows)
    x, y = extent.xMinimum() + across * extent.width(), extent.yMaximum() - down * extent.height()
    a, b, c, d, e, f = true["to_pixels"]
    col, row = a * x + b * y + c, d * x + e * y + f
    top, left, bottom, right = true["hall"]
    distance = np.maximum(np.maximum(top - row, row - bottom), np.maximum(left - col, col - right))
    around, hall = distance < 3, distance < 0  # source pixels; nodata and what lies outside are white, too
    centre = np.argwhere(hall).mean(axis=0)
    off = []
    for name, layer, threshold in (
        ("source", source, true["threshold"]),
        ("result", plain, true["threshold"]),
        ("guide", guide, 140),
    ):
        black_and_white(layer, threshold)
        seen = (render([layer], extent, crs, folder / f"{name}_hall.png").min(axis=2) > 127) & around
        step = np.sqrt(hall.sum() / ((bottom - top) * (right - left))) / SCALE  # an output pixel in the picture
        off.append(float(np.abs(np.argwhere(seen).mean(axis=0) - centre).max() / step))
        shared = (seen & hall).sum() / (seen | hall).sum()
        wrong.check(off[-1] < 0.25 and shared > 0.95, f"{name} {off[-1]:.2f} output pixels off, overlap {shared:.3f}")
    return off


def check(here, name, true, pictures):
    """What is wrong with one output, and what QGIS made of it."""
    wrong = Complaints()
    layer = QgsRasterLayer(str(here / "out.tif"), name)
    if not layer.isValid():
        wrong.append(f"not a valid layer: {layer.error().summary()}")
        return wrong, ""
    check_layer(layer, here / "out.tif", true, wrong)
    low, high = check_stretch(here / "out.tif", true, wrong)
    check_style(layer, true, wrong)
    render([layer], QgsRectangle(*true["box"]), layer.crs(), pictures / f"{name}.png")
    off = " ".join(f"{distance:.2f}" for distance in check_alignment(here, layer, true, wrong))
    return wrong, f"stretch by itself {low:.2f} to {high:.2f}; source, result, guide {off} output pixels off"


def main():
    folder = Path(sys.argv[1]).absolute()
    application = QgsApplication([], False)
    application.initQgis()
    print(f"QGIS {Qgis.QGIS_VERSION}, GDAL {gdal.__version__}")
    failed = 0
    for name, true in json.loads((folder / "truth.json").read_text()).items():
        wrong, said = check(folder / name, name, true, folder)
        failed += bool(wrong)
        print(f"{'FAILED' if wrong else 'ok':<7}{name}: {'; '.join(wrong) or said}", flush=True)
    application.exitQgis()
    sys.exit(1 if failed else 0)


main()
