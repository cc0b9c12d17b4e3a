"""Methods that live in other packages: the example, and packages that are broken or in each other's way."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conformance import Conformance
from outputs import physical
from pairs import geosr, make_pair, upscale
from rasters import grid, write

from geosr import methods
from geosr.errors import UnavailableError

EXAMPLE = Path(__file__).parents[1] / "examples" / "plugin"


class TestTheExample(Conformance):
    """The example's method keeps what geosr's own do."""

    @pytest.fixture
    def method(self, monkeypatch):
        monkeypatch.syspath_prepend(EXAMPLE)
        from geosr_highpass.method import create

        return create("default", {})


def test_the_example_is_installed_and_used(tmp_path):
    shutil.copytree(EXAMPLE, tmp_path / "plugin")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", tmp_path / "site", tmp_path / "plugin"], check=True, timeout=280)
    make_pair(tmp_path)
    command = [sys.executable, "-m", "geosr"]
    run = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 280, "check": True}
    run["env"] = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    listed = subprocess.run([*command, "methods"], **run).stdout
    assert "\nhighpass: the interpolated source, with" in listed
    assert "geosr-highpass 0.1" in listed
    pair = ["--source", "source.tif", "--guide", "guide.tif", "-o", "out.tif"]
    subprocess.run([*command, "upscale", *pair, "--method", "highpass", "--set", "gain=0.5"], **run)
    with rasterio.open(tmp_path / "out.tif") as made:
        tags = made.tags()
    assert (tags["GEOSR_METHOD"], tags["GEOSR_SETTINGS"]) == ("highpass", '{"gain": 0.5}')
    assert tags["GEOSR_METHOD_PACKAGE"] == "geosr-highpass 0.1"


ENTRY = """
from geosr.methods import Entry
ENTRY = Entry({name!r}, "{module}:create", "s", source="s", use="u", cost="instant")
"""
METHOD = """
from geosr.methods.base import Method, Prediction
class Mine(Method):
    name, settings, uses_guide = {name!r}, None, False
    def halo(self, scale): return 0
    def memory(self, bands, shape, scale): return 1
    def predict(self, patch, state, device): {predict}
def create(preset, settings): return Mine()
"""
SETTINGS = "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Settings:\n    pass\n"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a package with one module and one entry point on the path."""

    def put(package, code, *, name="mine"):
        module, site = package.replace("-", "_"), tmp_path / "site" / package
        info = site / f"{module}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[geosr.methods]\n{name} = {module}:ENTRY\n")
        (site / f"{module}.py").write_text(code.replace("MODULE", module))
        monkeypatch.syspath_prepend(site)

    return put


def entry(name="mine"):
    return ENTRY.format(name=name, module="MODULE")


def working(predict="return 1 / 0"):
    method = METHOD.format(name="mine", predict=predict).replace("None,", "Settings(),", 1)
    return entry() + SETTINGS + method


BROKEN = [
    ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    ("raise RuntimeError('one\\ntwo')", "RuntimeError: one"),
    ("ENTRY = 3", "not a geosr.methods.Entry of the name 'mine'"),
    (entry("other"), "not a geosr.methods.Entry of the name 'mine'"),
    (entry("Mine"), "ValueError"),
    ("x = 1", "AttributeError"),
    (entry(), "AttributeError"),
    (entry() + "def create(preset, settings): raise KeyError('y')", "KeyError: 'y'"),
    (entry() + "def create(preset, settings): return 3", "AttributeError"),
    (entry() + METHOD.format(name="mine", predict="pass"), "TypeError: asdict"),
    (entry() + METHOD.format(name="yours", predict="pass"), "it calls itself 'yours'"),
]


@pytest.mark.parametrize(("code", "reason"), BROKEN, ids=range(len(BROKEN)))
def test_a_broken_package_is_named_in_one_line_and_the_others_work(install, tmp_path, code, reason):
    install(f"broken-{len(code)}", code)
    make_pair(tmp_path)
    refused = upscale(tmp_path, method="mine")
    assert refused.code == 4
    assert refused.err.count("\n") == 1
    assert f"broken-{len(code)} 1.0" in refused.err
    assert reason in refused.err
    assert geosr("methods").code == 0
    assert methods.candidates() == ("mmsr", "diffusion", "bicubic")
    assert upscale(tmp_path, method="nearest").code == 0


def test_a_name_of_geosrs_own_stays_geosrs_own(install):
    install("greedy", "raise RuntimeError", name="bicubic")
    assert methods.names().count("bicubic") == 1
    assert methods.create("bicubic").predict
    listed = geosr("methods")
    assert listed.code == 0
    assert "greedy 1.0: the method 'bicubic' is not used" in listed.err


def test_two_packages_with_one_name_are_both_told_of(install):
    install("first", entry())
    install("second", entry())
    assert "mine" not in methods.names()
    with pytest.raises(UnavailableError, match=r"first 1.0 and second 1.0 both offer a method 'mine'"):
        methods.entry("mine")


def test_what_makes_a_method_slower_here_is_told(install, tmp_path):
    slower = "return 1 / 0\n    def slowness(self, device): return f'slow on {device} here'"
    install("limping", working(slower))
    make_pair(tmp_path)
    assert "note: slow on cpu here\n" in upscale(tmp_path, method="mine").err
    assert "slow on" not in upscale(tmp_path, "--overwrite", method="bicubic").err


def test_what_fails_in_a_tile_names_the_package(install, tmp_path):
    install("dividing", working())
    make_pair(tmp_path)
    failed = upscale(tmp_path, method="mine")
    assert failed.code == 5
    assert "dividing 1.0: the prediction of 'mine' failed: ZeroDivisionError: division by zero" in failed.err
    assert "Traceback" not in failed.err
    assert not (tmp_path / "out.tif").exists()
    assert upscale(tmp_path, "--on-tile-error", "interpolate", method="mine").code == 5
    assert (tmp_path / "out.tif").exists()


FITTED = """
    needs_fit = True
    def fit(self, patches, seed, device): return {"file": np.full(1, 2.0), "allow_pickle": np.ones((2, 3), "i4")}
"""


def test_a_fit_may_name_its_arrays_as_it_likes(install, tmp_path):
    used = "return Prediction(np.full(patch.guide_valid.shape, state['file'] * state['allow_pickle'].sum(), 'f4'))"
    install("naming", "import numpy as np" + working(used + FITTED))
    make_pair(tmp_path)
    done = upscale(tmp_path, "--tile", 64, method="mine")
    assert done.code == 0, done.err
    assert (tmp_path / "out.tif").exists()


def test_another_version_of_the_package_is_another_output(install):
    from geosr.methods import versions

    install("steady", working("return 0"))
    assert versions(methods.entry("mine")) == {"method's package": "steady 1.0"}
    assert versions(methods.entry("mmsr")) == {}
    assert set(versions(methods.entry("regression"))) == {"scikit-learn"}


def test_a_comparison_gives_a_method_what_a_run_gives_it(install, tmp_path):
    """One tile by its own statistics, a noisy guide as it is, and the preset's tolerance; the answer is these."""
    code = working("return Prediction(patch.guide[0] + min(patch.tolerance, 3))").replace(
        "Settings(), False", "Settings(), True"
    )
    fields = '    statistics: str = "tile"\n    consistency: str = "off"\n'
    install("telling", code.replace("    pass\n", fields))
    source, guide = make_pair(tmp_path)
    noisy = np.random.default_rng(0).normal(physical(guide), 20).astype("float32")
    write(guide, noisy, grid(500000, 5000000, 1))
    truth = write(tmp_path / "truth.tif", np.kron(physical(source), np.ones((4, 4))), grid(500000, 5000000, 1))
    found = tmp_path / "found.json"
    done = geosr("compare", source, guide, "--truth", truth, "--methods", "mine", "--json", found)
    assert done.code == 0, done.err
    assert upscale(tmp_path, method="mine").code == 0
    error = physical(tmp_path / "out.tif") - physical(truth)
    rmse = json.loads(found.read_text())["methods"][1]["scores"]["rmse"]
    assert rmse == pytest.approx(np.sqrt((error**2).mean()), rel=1e-5)


def test_a_method_that_runs_out_of_memory_is_a_failed_row_of_a_comparison(install, tmp_path):
    install("greedy", working("raise MemoryError"))
    source, guide = make_pair(tmp_path)
    done = geosr("compare", source, guide, "--methods", "mine,nearest", "--json", tmp_path / "found.json")
    assert done.code == 0, done.err
    found = {row["method"]: row["failure"] for row in json.loads((tmp_path / "found.json").read_text())["methods"]}
    assert found == {"bicubic": None, "mine": "out of memory", "nearest": None}
