"""The page of a report in a real browser, used as a reader would: `make test-browser`.

It is not collected by default: it needs Chromium, which is no Python package.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pairs
import pytest
import rasterio
import rasters
from playwright.sync_api import sync_playwright

BUILD = Path(__file__).parents[2] / "build"
SCALE = 4
SIDE = 240  # source pixels: the output is larger than the whole view, so that there are details


def make_pair(folder, source="dsm.tif", guide="guide.tif"):
    """Hills with a hall on them, in metres, a hole in the source; a photo."""
    row, col = np.mgrid[:SIDE, :SIDE]
    heights = (400 + 12 * np.sin(row / 31) * np.cos(col / 47) + 9.0 * ((row // 20 + col // 30) % 5 == 0)).astype(
        "float32"
    )
    heights[30:50, 60:90] = -9999
    grid = rasters.grid(500000, 5000000, 4)
    name = "</script><script>alert(2)</script>"
    rasters.write(folder / source, heights, grid, nodata=-9999, tags={"AUTHOR": name})
    with rasterio.open(folder / source, "r+") as dataset:
        dataset.units, dataset.descriptions = ["m"], [f"height {name}"]
    detail = np.kron((heights > 405) * 120, np.ones((SCALE, SCALE))) + 40
    noise = np.random.default_rng(3).integers(0, 30, (3, *detail.shape))
    rasters.write(folder / guide, (detail + noise).astype("uint8"), rasters.grid(500000, 5000000, 1))
    return folder / source, folder / guide


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    source, guide = make_pair(folder, guide="<script>alert(1)<&\"'>.tif")
    report = folder / "report.html"
    more = ("--method", "bicubic", "--report", report, "--uncertainty", folder / "sd.tif")
    done = pairs.geosr("upscale", "--source", source, "--guide", guide, "-o", folder / "out.tif", *more)
    assert done.code == 0, done.err
    return report


@pytest.fixture(scope="module")
def chromium():
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    assert program, "no Chromium here; Debian's package is called chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium, page_file):
    """The page, ready; at the end nothing may have been said on the console or asked of a network."""
    page, complaints, requests = chromium.new_page(viewport={"width": 1280, "height": 1000}), [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(page_file.as_uri())
    page.wait_for_selector("body[data-ready=yes]")
    yield page
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [page_file.as_uri()]
    page.close()


def shares(page):
    """By layer, the share of the width that is shown: from the left edge, to the right edge."""
    found = {}
    for image in page.query_selector_all(".stage img.shown"):
        _, right, _, left = re.findall(r"[\d.]+", (image.evaluate("e => e.style.clipPath") + " 0 0 0 0"))[:4]
        found[image.get_attribute("data-layer")] = (float(left), 100 - float(right))
    return found


def values(page):
    """Least and largest value of source and result along the line, as the page says them."""
    words = page.inner_text("#profile-words")
    found = {
        name: tuple(map(float, pair)) for name, *pair in re.findall(r"(Source|Result) ([\d.]+) to ([\d.]+)", words)
    }
    return float(re.search(r"Length ([\d.]+) m", words)[1]), found


def drag(page, start, finish):
    """The mouse from one place of the picture to another, both as shares of its sides."""
    page.locator("#stage").scroll_into_view_if_needed()
    box = page.locator("#stage").bounding_box()
    (x0, y0), (x1, y1) = ((box["x"] + u * box["width"], box["y"] + v * box["height"]) for u, v in (start, finish))
    page.mouse.move(x0, y0)
    page.mouse.down()
    page.mouse.move((x0 + x1) / 2, (y0 + y1) / 2)
    page.mouse.move(x1, y1)
    page.mouse.up()


def test_what_is_shown_at_first(opened):
    assert opened.title() == "out.tif - geosr report"
    assert shares(opened) == {"source": (0, 50), "result": (50, 100)}
    assert "<script>alert(1)<&\"'>.tif" in opened.inner_text("header")
    sizes = opened.eval_on_selector_all(".stage img", "list => list.map(e => e.naturalWidth)")
    assert len(sizes) == 3 * 5
    assert min(sizes) > 0
    assert all(opened.eval_on_selector_all("img", "list => list.map(e => e.alt.length > 10)"))
    BUILD.mkdir(exist_ok=True)
    opened.screenshot(path=BUILD / "report.png", full_page=True)


def test_swipe_by_mouse_and_by_keyboard(opened):
    drag(opened, (0.5, 0.3), (0.25, 0.35))  # the divider
    left, right = shares(opened)["source"][1], shares(opened)["result"][0]
    assert left == pytest.approx(25, abs=1)
    assert right == pytest.approx(25, abs=1)
    opened.focus("#split")
    opened.keyboard.press("End")
    assert shares(opened)["source"] == (0, 100)
    for layer in ("hillshade", "uncertainty", "guide"):
        opened.select_option("#right", layer)
        assert set(shares(opened)) == {"source", layer}


def test_a_profile_along_a_drawn_line_shows_the_values_of_the_files(opened, page_file):
    opened.select_option("#view", "1")
    width, height = (float(n) for n in opened.get_attribute("#overlay", "viewBox").split()[2:])
    drag(opened, (0.1, 0.2), (0.9, 0.2))
    length, found = values(opened)
    assert length == pytest.approx(0.8 * width, abs=2)  # pixels of 1 m
    data = opened.evaluate("JSON.parse(document.getElementById('data').textContent).views[1]")
    row = data["row"] + int(0.2 * height)
    left, right = (data["column"] + round(share * width) for share in (0.1, 0.9))
    for name, file, step in (("Result", "out.tif", 1), ("Source", "dsm.tif", SCALE)):
        line = rasters.plain_read(page_file.parent / file)[row // step, left // step : right // step + 1]
        line = line[line > 0]
        assert found[name] == pytest.approx((line.min(), line.max()), abs=0.3)
    assert opened.locator("#profile path.result").count() == 2  # the line and its key
    opened.locator("#stage").screenshot(path=BUILD / "report-detail.png")


def test_the_ends_of_the_line_move_with_the_arrow_keys(opened):
    before = opened.evaluate("e => e.style.left", opened.query_selector("#finish"))
    length = values(opened)[0]
    opened.focus("#finish")
    for _ in range(3):
        opened.keyboard.press("Shift+ArrowRight")
    assert opened.evaluate("e => e.style.left", opened.query_selector("#finish")) != before
    assert values(opened)[0] > length + 20
    assert opened.get_attribute("#profile", "aria-label").startswith("Values along the line. Length")


def test_every_control_can_be_reached_by_keyboard_and_has_a_name(opened):
    reached = []
    for _ in range(20):
        opened.keyboard.press("Tab")
        reached.append(opened.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert {"view", "left", "right", "enlarge", "start", "finish", "split", "SUMMARY"} <= set(reached)
    names = opened.eval_on_selector_all(
        "button, select, input", "list => list.map(e => e.ariaLabel || e.textContent || e.labels?.[0]?.textContent)"
    )
    assert all(names)


def test_the_policy_keeps_scripts_of_files_and_all_connections_out(chromium, page_file, tmp_path):
    hostile = page_file.read_text().replace("</h1>", "</h1><script>document.title = 'mine'</script>", 1)
    (tmp_path / "hostile.html").write_text(hostile)
    page = chromium.new_page()
    page.goto((tmp_path / "hostile.html").as_uri())
    page.wait_for_selector("body[data-ready=yes]")
    assert page.title() != "mine"
    tried = """new Promise(done => {
        document.addEventListener("securitypolicyviolation", event => done(event.effectiveDirective));
        fetch("https://example.org/").catch(() => {});
    })"""
    assert page.evaluate(tried) == "connect-src"
    page.close()


def test_a_narrow_screen_needs_no_scrolling_sideways(chromium, page_file):
    page = chromium.new_page(viewport={"width": 390, "height": 800})
    page.goto(page_file.as_uri())
    page.wait_for_selector("body[data-ready=yes]")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.screenshot(path=BUILD / "report-narrow.png", full_page=True)
    page.close()
