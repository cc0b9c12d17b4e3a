"""--fit scene: one state for all tiles, kept for a run that goes on, and the same bytes each time."""

import dataclasses
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import rasterio
from outputs import SMALL_NETWORK, run
from pairs import contents, make_pair, upscale

from geosr.events import Stage
from geosr.methods.mmsr import Mmsr
from geosr.options import Execution, Inputs, Recipe
from geosr.placement import place
from geosr.plan import make_plan
from geosr.sampling import fit_scene, measure_scene
from geosr.tile_work import solve_tile

QUICK = ["--set", "epochs=3", "--set", "channels=8", "--set", "belief=full", "--tile", "160", "--fit", "scene"]


def read(path):
    with rasterio.open(path) as file:
        return file.read(1), file.tags()


def test_the_fit_is_shared_and_repeatable(tmp_path):
    make_pair(tmp_path, size=48)
    told = upscale(tmp_path, *QUICK, method="mmsr")
    assert told.code == 0
    assert "fitting to the scene" in told.err
    assert upscale(tmp_path, *QUICK, "--workers", "1", method="mmsr", output="again.tif").code == 0
    told = upscale(tmp_path, *QUICK, "--fit", "tile", method="mmsr", output="tile.tif")
    assert told.code == 0
    assert "fitting to the scene" not in told.err
    (one, tags), (again, _), (alone, _) = (read(tmp_path / name) for name in ("out.tif", "again.tif", "tile.tif"))
    assert tags["GEOSR_FIT"] == "scene"
    assert one.tobytes() == again.tobytes()
    assert one.tobytes() != alone.tobytes()


def test_every_tile_uses_the_state_of_the_scene(tmp_path, monkeypatch):
    make_pair(tmp_path, size=48)
    inputs = Inputs(tmp_path / "source.tif", tmp_path / "guide.tif")
    recipe = Recipe(settings={"epochs": 3, "channels": 8, "belief": "full"}, tile=160, fit="scene")
    plan = make_plan(inputs, recipe)
    placement, stats = place(len(plan.tiles), Execution()), measure_scene(plan)
    state = fit_scene(plan, placement, stats)
    other = fit_scene(dataclasses.replace(plan, recipe=dataclasses.replace(recipe, seed=1)), placement, stats)

    def refuse(*_):
        raise AssertionError("a tile was fitted by itself")

    def answer(tile, state):
        fitted = dataclasses.replace(plan, state=state)
        return solve_tile(plan.method, fitted, placement, stats, plan.scene.read(tile), tile).values

    monkeypatch.setattr(Mmsr, "fit", refuse)
    for tile in plan.tiles:
        assert answer(tile, state).tobytes() == answer(tile, state).tobytes() != answer(tile, other).tobytes()


def test_a_killed_run_goes_on_with_the_stored_fit(tmp_path):
    make_pair(tmp_path, size=48)
    options = [*QUICK, "--workers", "1"]
    assert upscale(tmp_path, *options, method="mmsr", output="whole.tif").code == 0
    command = [
        sys.executable,
        "-m",
        "geosr",
        "upscale",
        "--source",
        "source.tif",
        "--guide",
        "guide.tif",
        "-o",
        "out.tif",
    ]
    process = subprocess.Popen([*command, *options], cwd=tmp_path)
    while not list(tmp_path.glob(".out.tif*/tiles/*.tile")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (folder,) = tmp_path.glob(".out.tif*")
    assert (folder / "state.npz").exists()
    resumed = subprocess.Popen([*command, *options], cwd=tmp_path)
    assert resumed.wait(timeout=600) == 0
    assert read(tmp_path / "out.tif")[0].tobytes() == read(tmp_path / "whole.tif")[0].tobytes()
    assert not list(tmp_path.glob(".out.tif*"))


def test_a_run_that_is_stopped_right_after_its_fit_keeps_it(tmp_path, monkeypatch):
    pair = make_pair(tmp_path, size=48)
    recipe = {**SMALL_NETWORK, "tile": 112}
    run(*pair, tmp_path / "whole.tif", 4, **recipe)

    def stop(event):
        if event == Stage("tiles"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as ended:
        run(*pair, tmp_path / "out.tif", 4, on_event=stop, **recipe)
    (folder,) = tmp_path.glob(".out.tif*")
    assert sorted(path.name for path in folder.iterdir()) == ["lock", "run.json", "state.npz", "tiles"]
    assert ended.value.__notes__ == [f"the finished fit is kept in {folder}; run the same command again to continue"]
    monkeypatch.delattr("geosr.pipeline.fit_scene")
    run(*pair, tmp_path / "out.tif", 4, **recipe)
    assert (tmp_path / "out.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()


def test_a_damaged_state_is_made_anew(tmp_path):
    from geosr.run_folder import run_folder

    calls = []

    def make():
        calls.append(1)
        return {"weight": np.arange(4, dtype=np.float32)}

    output = tmp_path / "out.tif"
    with run_folder(output, {"job": "a"}) as folder:
        for _ in range(2):
            np.testing.assert_array_equal(folder.remember_state(make)["weight"], np.arange(4))
        assert len(calls) == 1
        (folder.path / "state.npz").write_bytes(b"half")
        np.testing.assert_array_equal(folder.remember_state(make)["weight"], np.arange(4))
    assert len(calls) == 2
    assert contents(tmp_path) == {}


def test_a_scene_where_nothing_can_be_told_is_interpolated(tmp_path):
    make_pair(tmp_path, size=48)
    with rasterio.open(tmp_path / "source.tif", "r+") as file:
        file.write(np.full(file.shape, 7, file.dtypes[0]), 1)
    assert upscale(tmp_path, *QUICK, method="mmsr").code == 0
    values = read(tmp_path / "out.tif")[0]
    assert values.min() == values.max() == 7


@pytest.mark.parametrize("preset", ["paper-depth", "paper-dem"])
def test_a_preset_that_normalises_by_tile_is_refused(tmp_path, preset):
    make_pair(tmp_path)
    refused = upscale(tmp_path, "--fit", "scene", "--preset", preset, method="mmsr")
    assert refused.code == 2
    assert "--fit tile" in refused.err
