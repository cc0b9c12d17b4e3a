"""The report as a page: complete in itself, safe whatever files say, small; `make test-browser` uses it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest
import rasterio
import rasters
from outputs import block_means, physical, run
from pairs import DIVERGING, contents, make_corner_pair, make_pair, upscale

from geosr.describe import describe_guide, describe_source
from geosr.grid import GridPair, Window
from geosr.report_page import make_page, quantise
from geosr.views import DETAIL, WHOLE, Subject, Surface, look

EVIL = "</script><script>alert('1')</script><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """Elements with their attributes, texts, and what stands in scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.inside, self.words = [], {"script": [], "style": []}, []
        self._in = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._in = tag if tag in self.inside else None
        if self._in:
            self.inside[tag].append("")

    def handle_endtag(self, tag):
        self._in = None

    def handle_data(self, data):
        if self._in:
            self.inside[self._in][-1] += data
        else:
            self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    @property
    def data(self):
        return json.loads(self.inside["script"][0])


def read(path):
    return Page(path.read_text())


def check_sealed(page, pictures):
    """Nothing is asked of a network, and no script but the page's own can run."""
    scripts, styles = page.inside["script"], page.inside["style"]
    assert (len(scripts), len(styles), len(page.all("img"))) == (2, 1, pictures)
    (policy,) = (meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (scripts[1], styles[0])]
    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "script-src": f"'sha256-{digests[0]}'",
        "style-src": f"'sha256-{digests[1]}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("data:image/", "#"))
    assert all(len(image["alt"]) > 10 for image in page.all("img"))
    assert not re.search(r"url\(|@import|https?:", styles[0] + scripts[1].replace("http://www.w3.org/2000/svg", ""))


def test_a_page_is_complete_in_itself_and_says_what_the_json_says(tmp_path):
    make_pair(tmp_path, size=40)
    assert upscale(tmp_path, "--tile", 96, "--seed", 3, "--report", tmp_path / "r.html").code == 0
    assert set(contents(tmp_path)) == {"source.tif", "guide.tif", "out.tif", "r.html"}
    page = read(tmp_path / "r.html")
    check_sealed(page, pictures=4 + 1)
    for words in ("out.tif", "source.tif with guide.tif: bicubic", "complete: every tile done", "160 x 160", "seed 3"):
        assert words in page.text
    (view,) = page.data["views"]
    assert (view["rows"], view["columns"], view["pixel"], view["ground"]) == (160, 160, [1, 1], [1.0, 1.0])
    for name, file in (("source", "source.tif"), ("result", "out.tif")):
        grid, stored = view["surfaces"][name], rasters.plain_read(tmp_path / file)
        levels = np.frombuffer(zlib.decompress(base64.b64decode(grid["values"])), "<u2").reshape(stored.shape)
        assert np.abs(grid["low"] + (levels - 1.0) * grid["step"] - stored).max() <= 0.51 * grid["step"] + 1e-5
        assert grid["step"] < 1e-3


def test_the_expected_error_is_a_layer_where_it_was_written(tmp_path):
    make_pair(tmp_path, size=40)
    more = ("--uncertainty", tmp_path / "sd.tif", "--report", tmp_path / "r.html")
    assert upscale(tmp_path, *more).code == 0
    page = read(tmp_path / "r.html")
    check_sealed(page, pictures=5 + 1)
    top = np.percentile(rasters.plain_read(tmp_path / "sd.tif"), 98)
    assert f"Expected error (standard deviation): dark 0, bright {top:.3g}." in page.text


def test_what_files_say_stays_text(tmp_path):
    source, guide = make_pair(tmp_path, size=24)
    with rasterio.open(source, "r+") as dataset:
        dataset.update_tags(AUTHOR=EVIL)
        dataset.units, dataset.descriptions = [EVIL], [f"height {EVIL}"]
    names = ["<script>alert(1)<", "<img src=x onerror=alert(1)>\"'&{{ 7 * 7 }}"]
    for path, name in zip((source, guide), names, strict=True):
        path.rename(tmp_path / f"{name}.tif")
    source, guide = (f"{name}.tif" for name in names)
    done = upscale(tmp_path, "--report", tmp_path / "r.html", source=source, guide=guide, output=f"{names[1]}x.tif")
    assert done.code == 0, done.err
    page = read(tmp_path / "r.html")
    check_sealed(page, pictures=4 + 1)
    assert EVIL in page.text
    assert page.text.count("{{ 7 * 7 }}") >= 3
    assert source in page.text
    assert page.data["units"] == EVIL


def test_gaps_are_gaps_and_quantised_values_keep_half_a_step():
    values = np.random.default_rng(0).normal(300, 40, (50, 70))
    valid = np.random.default_rng(1).random(values.shape) < 0.8
    packed = quantise(Surface(np.where(valid, values, 1e30), valid))
    levels = np.frombuffer(zlib.decompress(base64.b64decode(packed["values"])), "<u2").reshape(50, 70)
    assert np.array_equal(levels > 0, valid)
    assert np.abs(packed["low"] + (levels - 1.0) * packed["step"] - values)[valid].max() <= 0.5001 * packed["step"]
    nothing = quantise(Surface(values, np.zeros(values.shape, bool)))
    assert not any(zlib.decompress(base64.b64decode(nothing["values"])))


def test_the_map_of_deviations_shows_the_largest_of_each_cell(tmp_path):
    source, guide = make_pair(tmp_path, size=271, scale=2, step=2)
    done = run(source, guide, tmp_path / "out.tif", 2, consistency="off")
    distance = np.abs(block_means(physical(tmp_path / "out.tif"), 2) - physical(source))
    expected = np.pad(distance, ((0, 1), (0, 1))).reshape(136, 2, 136, 2).max(axis=(1, 3))
    assert expected.max() > 0.01
    assert np.allclose(done.written.deviations, expected, atol=1e-4)
    assert done.written.deviation.largest == pytest.approx(expected.max(), abs=1e-4)


def noise(path, bands, side, step):
    values = np.random.default_rng(side).random((bands, side, side)).astype("float32")
    return rasters.write(path, values, rasters.grid(500000, 5000000, step))


def test_the_largest_page_there_can_be_is_small_enough(tmp_path):
    """Noise cannot be compressed, a larger scene shows no more pixels than this one, and every tile has failed."""
    side = 2 * WHOLE
    result = describe_source(noise(tmp_path / "result_dsm.tif", 1, side, 1))
    source = describe_source(noise(tmp_path / "source_dsm.tif", 1, side // 2, 2))
    guide = describe_guide(noise(tmp_path / "guide.tif", 3, side, 1))
    grids = GridPair(source.geobox, 2)
    seen = look(Subject(source, guide, result, grids, Window(0, 0, side // 2, side // 2), grids.high, result))
    sizes = [view.pictures["result"].shape[1:] for view in seen.views]
    assert sizes == [(WHOLE, WHOLE), (DETAIL, DETAIL), (DETAIL, DETAIL)]
    fallen = [Window(13 * i % side, 17 * i % side, 300, 300) for i in range(20_000)]
    reasons = [{"index": i, "row": i, "column": i, "reason": "out of memory " * 20} for i in range(20_000)]
    tiles = {"total": 20_000, "done": 0, "resumed": 0, "skipped": 0, "failed": [], "interpolated": reasons}
    deviations = np.random.default_rng(0).random((256, 256))
    page = make_page(describe(tiles=tiles), {"source": "s", "guide": "g"}, seen, deviations, fallen)
    assert 5_000_000 < len(page) < 10_000_000


def describe(**more):
    """What a report says."""
    return {
        "inputs": {"source": "s", "guide": "g"},
        "settings": {"method": "bicubic", "preset": "default", "scale": "2", "consistency": "exact"},
        "versions": {},
        "tiles": {"total": 1, "done": 1, "resumed": 0, "skipped": 0, "failed": [], "interpolated": []},
        "batches": {"planned": 1, "smaller": [], "same_bytes_again": True},
        "output": "/somewhere/out.tif",
        "notes": [],
        "exit_code": 0,
        "scheduler": "threads",
        "workers": 1,
        "seconds": {"tiles": 1.0},
        "guided_percent": 100.0,
        "expected_error": 0.43214,
        "deviation": {"largest": 1e-6, "rms": 1e-7},
        "seam_ratio": None,
        **more,
    }


def test_the_expected_error_is_shown():
    page = Page(make_page(describe(), {"source": "s", "guide": "g"}, "no pictures", None, []).decode())
    assert "Expected error 0.432 root mean square" in page.text


def test_tiles_that_fell_back_are_named_and_marked(tmp_path):
    make_corner_pair(tmp_path)
    more = (*DIVERGING, "--report", tmp_path / "r.html")
    assert upscale(tmp_path, *more, method=None).code == 5
    failed = read(tmp_path / "r.html")
    check_sealed(failed, pictures=3)
    total = re.search(r"(\d+) of (\d+) done", failed.text)
    assert f"1 of {total[2]} tiles failed; no output" in failed.text
    assert "row 0, column 0 no output the fit diverged" in failed.text
    ((kind, place),) = failed.data["views"][0]["marks"]
    assert (kind, place[:2]) == ("tile", [0, 0])
    assert upscale(tmp_path, *more, "--on-tile-error", "interpolate", method=None).code == 5
    interpolated = read(tmp_path / "r.html")
    check_sealed(interpolated, pictures=5)
    assert "complete, but 1 tiles hold the interpolated source" in interpolated.text
    assert "row 0, column 0 interpolated the fit diverged" in interpolated.text


def test_a_page_is_written_where_pictures_cannot_be_drawn():
    page = Page(make_page(describe(output=None), {"source": "s", "guide": "g"}, "block 3 is <lost>", None, []).decode())
    assert "The pictures could not be drawn: block 3 is <lost>" in page.text
    assert page.inside["script"] == []
    assert "no output" in page.text


def test_a_source_of_which_nothing_can_be_read_any_more_still_gets_its_report(tmp_path):
    """Its blocks are damaged in the middle: the run fails, the page says why it has no pictures."""
    values = np.zeros((4352, 4352), "float32")  # too large to be read through before the work
    values[:512, :2048] = np.random.default_rng(0).random((512, 2048))
    source = rasters.write(tmp_path / "source.tif", values, rasters.grid(500000, 5000000, 4),
                           tiled=True, blockxsize=256, blockysize=256, compress="deflate")  # fmt: skip
    rasters.write(tmp_path / "guide.tif", values[:400, :2000], rasters.grid(504000, 5000000, 1))
    with rasterio.open(source) as dataset, source.open("r+b") as file:
        file.seek(int(dataset.get_tag_item("BLOCK_OFFSET_5_0", "TIFF", bidx=1)))
        file.write(b"\xff" * 64)
    bounds = ("--bounds", 504000, 5000000 - 400, 506000, 5000000)
    done = upscale(tmp_path, *bounds, "--report", tmp_path / "r.html")
    assert done.code == 5, done.err
    page = read(tmp_path / "r.html")
    assert "tiles failed; no output" in page.text
    assert "The pictures could not be drawn: " in page.text


@pytest.mark.parametrize("shape", [(4, 1100), (1100, 4), (9, 8)])
def test_scenes_of_any_shape_have_a_page(shape, tmp_path):
    values = np.random.default_rng(0).random(shape).astype("float32")
    rasters.write(tmp_path / "source.tif", values, rasters.grid(500000, 5000000, 4))
    rows, cols = shape
    rasters.write(
        tmp_path / "guide.tif", np.zeros((1, 4 * rows, 4 * cols), "uint16") + 7, rasters.grid(500000, 5000000, 1)
    )
    done = upscale(tmp_path, "--report", tmp_path / "r.html")
    assert done.code == 0, done.err
    page = read(tmp_path / "r.html")
    views = page.data["views"]
    check_sealed(page, pictures=4 * len(views) + 1)
    assert len(views) == (3 if max(shape) * 4 > WHOLE else 1)
    for view, window in zip(
        views, [(4 * rows, 4 * cols)] + [tuple(min(4 * n, DETAIL) for n in shape)] * 2, strict=False
    ):
        across, down = view["pixel"]
        assert (down * view["rows"], across * view["columns"]) == pytest.approx(window)
        assert view["ground"] == pytest.approx([across, down])  # output pixels of 1 m
    assert "Pixel 1 m" in page.text
