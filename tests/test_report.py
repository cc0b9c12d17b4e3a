"""What a program can read of a run: the report, and events as JSON lines."""

from __future__ import annotations

import html
import json
import re

import numpy as np
import pytest
from geosr_cli.render import JsonLog, Screen
from outputs import check_means
from pairs import DIVERGING, contents, make_corner_pair, make_pair, upscale

from geosr.errors import OutputError, UsageError
from geosr.events import Fitting, Stage, Validated
from geosr.options import Execution, Inputs, Recipe
from geosr.pipeline import upscale_file
from geosr.report import check_report


@pytest.fixture
def folder(tmp_path):
    make_corner_pair(tmp_path)
    return tmp_path


def read(folder):
    return json.loads((folder / "report.json").read_text())


def test_a_report_says_what_was_done(folder):
    (folder / "report.json").write_text("an older one")
    assert upscale(folder, "--tile", 64, "--seed", 3, "--report", folder / "report.json").code == 0
    report = read(folder)
    count = report["tiles"]["total"]
    assert report["tiles"] == {
        "total": count,
        "done": count,
        "resumed": 0,
        "skipped": 0,
        "failed": [],
        "interpolated": [],
    }
    assert report["exit_code"] == 0
    assert report["output"] == str(folder / "out.tif")
    assert report["settings"]["seed"] == 3
    assert report["settings"]["method"] == "bicubic"
    assert report["settings"]["device"].startswith("cpu ")
    assert {"geosr", "torch", "numpy", "GDAL"} <= set(report["versions"])
    guide = folder / "guide.tif"
    modified = np.datetime64(guide.stat().st_mtime_ns, "ns")
    date, size = str(modified).replace("T", " "), guide.stat().st_size
    assert report["inputs"]["guide"].startswith(f"{guide}, {size} bytes, modified {date} UTC, ")
    assert (report["settings"]["fit"], report["settings"]["bounds"]) == (None, None)
    assert list(report["seconds"]) == ["plan", "statistics", "tiles", "mosaic"]
    assert report["deviation"]["largest"] < 1e-5
    assert (report["guided_percent"], report["scheduler"]) == (0, "threads")
    assert (report["units"], report["coregistration"]) == (None, None)
    assert set(contents(folder)) == {"source.tif", "guide.tif", "out.tif", "report.json"}


def test_a_report_holds_every_note_that_was_printed(tmp_path):
    make_pair(tmp_path, shift=30)
    band = '<PAMDataset><PAMRasterBand band="1"><NoDataValue>-7</NoDataValue></PAMRasterBand></PAMDataset>'
    (tmp_path / "source.tif.aux.xml").write_text(band)
    for name, read_notes in (
        ("report.json", lambda text: json.loads(text)["notes"]),
        ("report.html", lambda text: re.findall(r'<tr><th scope="row">\d+</th><td>(.*?)</td></tr>', text)),
    ):
        outcome = upscale(tmp_path, "--report", tmp_path / name, "--overwrite", method="diffusion")
        printed = [line.removeprefix("note: ") for line in outcome.err.splitlines() if line.startswith("note: ")]
        assert [html.unescape(note) for note in read_notes((tmp_path / name).read_text())] == printed
        assert len(printed) == 3
        assert "nodata value" in printed[0] + printed[1]
        assert printed[-1].startswith("no guide on ")


def test_a_report_names_tiles_that_failed_and_those_of_an_earlier_run(folder):
    report = ("--report", folder / "report.json")
    assert upscale(folder, *DIVERGING, *report, method=None).code == 5
    first = read(folder)
    (failed,) = first["tiles"]["failed"]
    assert (failed["index"], failed["row"], failed["column"]) == (0, 0, 0)
    assert failed["reason"].startswith("the fit diverged")
    assert (first["output"], first["exit_code"]) == (None, 5)
    done = first["tiles"]["done"]
    assert upscale(folder, *DIVERGING, *report, "--on-tile-error", "interpolate", method=None).code == 5
    second = read(folder)
    assert second["tiles"]["failed"] == []
    assert second["tiles"]["interpolated"] == [failed]
    assert second["tiles"]["resumed"] == done
    assert (second["output"], second["exit_code"]) == (str(folder / "out.tif"), 5)


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("report.pdf", 2, "a report is JSON or a page; give a name that ends in .json or .html"),
        ("report", 2, "give a name that ends in .json"),
        ("missing/report.html", 6, "does not exist; make the folder first"),
        ("missing/report.json", 6, "does not exist; make the folder first"),
        ("folder.json", 6, "is a folder; give the name of a file to write"),
        ("x" * 260 + ".json", 6, "File name too long"),
    ],
)
def test_a_report_that_cannot_be_written_is_refused_before_the_work(name, code, said, folder):
    (folder / "folder.json").mkdir()
    before = contents(folder)
    outcome = upscale(folder, "--report", folder / name)
    assert outcome.code == code
    assert said in outcome.err
    assert contents(folder) == before


def test_a_style_that_cannot_be_written_is_refused_before_the_work(folder):
    (folder / "out.qml").mkdir()
    before = contents(folder)
    outcome = upscale(folder, "--style", "--overwrite")
    assert (outcome.code, outcome.err.count("\n")) == (6, 1)
    assert "out.qml is a folder" in outcome.err
    assert contents(folder) == before


def test_a_report_is_never_an_input_however_its_name_is_spelled(folder):
    (folder / "sub").mkdir()
    weights = folder / "weights.json"
    weights.write_text("precious")
    with pytest.raises(UsageError, match="is an input or the output"):
        check_report(folder / "sub" / ".." / "weights.json", [weights])


def test_an_error_after_the_output_has_its_name_says_that_it_was_written(folder):
    report = folder / "report.json"

    def take(event):
        if event == Stage("mosaic"):  # long after the check
            report.mkdir()

    execution = Execution("cpu", report=report, on_event=take)
    inputs = Inputs(folder / "source.tif", folder / "guide.tif")
    with pytest.raises(OutputError, match=r"cannot write .*report\.json: Is a directory") as caught:
        upscale_file(inputs, Recipe("bicubic"), execution, folder / "out.tif")
    assert caught.value.__notes__ == [f"{folder / 'out.tif'} was written"]
    check_means(folder / "source.tif", folder / "out.tif", 4)


def test_links_are_followed_and_kept(folder):
    (folder / "elsewhere").mkdir()
    for name in ("report.json", "out.qml"):
        (folder / "elsewhere" / name).write_text("an older one")
        (folder / name).symlink_to(folder / "elsewhere" / name)
    assert upscale(folder, "--report", folder / "report.json", "--style", "--overwrite").code == 0
    assert (folder / "report.json").is_symlink()
    assert (folder / "out.qml").is_symlink()
    assert json.loads((folder / "elsewhere" / "report.json").read_text())["output"] == str(folder / "out.tif")
    assert b"<qgis" in (folder / "elsewhere" / "out.qml").read_bytes()
    assert sorted(path.name for path in (folder / "elsewhere").iterdir()) == ["out.qml", "report.json"]


def events(outcome):
    assert outcome.out == ""
    return [json.loads(line) for line in outcome.err.splitlines()]


def test_events_as_json(folder):
    seen = events(upscale(folder, "--tile", 64, "--log-json"))
    assert {"event", "time"} <= set.intersection(*(set(event) for event in seen))
    assert [event["name"] for event in seen if event["event"] == "stage"] == ["statistics", "tiles", "mosaic"]
    progress = [event for event in seen if event["event"] == "progress"]
    assert progress[0]["done"] == 0
    assert progress[-1]["done"] == progress[-1]["total"] == len(progress) - 1
    assert progress[1]["rate"] > 0
    assert progress[1]["left"] > 0
    assert seen[-1]["event"] == "written"
    assert {"output", "seconds", "interpolated", "expected_error", "guided", "deviation"} < {*seen[-1]}


@pytest.mark.parametrize("tiles", [("--tile", 160), ("--fit", "tile")])
def test_a_fit_to_the_scene_or_of_the_only_tile_tells_how_far_it_is(tmp_path, tiles):
    make_pair(tmp_path, size=40 if tiles[0] == "--fit" else 48)
    settings = ("--set", "epochs=30", "--set", "channels=8", "--set", "belief=full")
    seen = events(upscale(tmp_path, *settings, *tiles, "--log-json", method="mmsr"))
    told = [event for event in seen if event["event"] == "fitting"]
    shares = [event["share"] for event in told]
    assert shares == pytest.approx([(epoch + 1) / 30 for epoch in range(30)])
    assert told[-1]["left"] == pytest.approx(0, abs=1e-6)
    assert told[9]["left"] == pytest.approx(2 * told[9]["seconds"])
    after = seen[seen.index(told[-1]) + 1]
    assert (after["event"], after.get("name", "")) == (("progress", "") if tiles[0] == "--fit" else ("stage", "tiles"))


def test_a_fit_that_takes_long_says_so_on_plain_streams(capfd, monkeypatch):
    clock = iter([0.0, 5.0, 11.0, 12.0])
    monkeypatch.setattr("geosr_cli.render.time.monotonic", lambda: next(clock))
    screen = Screen()
    for share in (0.2, 0.4, 0.5):
        screen.show(Fitting(share, 20.0))
    assert capfd.readouterr().err == "fit: 40% done, about 30 s left\n"


def test_the_log_is_json_whatever_the_numbers_are(capfd):
    def no_json(name):
        pytest.fail(f"{name} is no JSON")

    JsonLog().show(Validated(step=1, loss=float("nan"), rmse=float("inf"), bicubic=0.5))
    told = json.loads(capfd.readouterr().err, parse_constant=no_json)
    assert (told["loss"], told["rmse"], told["bicubic"]) == (None, None, 0.5)


def test_failures_and_errors_as_json(folder):
    outcome = upscale(folder, *DIVERGING, "--log-json", method=None)
    assert outcome.code == 5
    seen = events(outcome)
    (failed,) = [event for event in seen if event["event"] == "tile_failed"]
    assert (failed["index"], failed["retry"]) == (0, False)
    assert (seen[-1]["event"], seen[-1]["kind"], seen[-1]["exit_code"]) == ("error", "TileError", 5)
    assert "run the same command again to continue" in seen[-1]["message"]
    assert [event["failed"] for event in seen if event["event"] == "progress"][-1] == 1
    refused = upscale(folder, "--log-json", source="missing.tif")
    assert refused.code == 3
    assert events(refused)[-1]["exit_code"] == 3
    assert upscale(folder, "--log-json", "--quiet").code == 2
