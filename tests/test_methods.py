"""Every registered method keeps what methods promise; names and settings that do not exist say what there is."""

import numpy as np
import pairs
import pytest
import torch
from conformance import Conformance, make_pair, run

from geosr import methods
from geosr.consistency import Consistency, pool
from geosr.errors import TileError, UnavailableError, UsageError
from geosr.methods.base import Method, Prediction
from geosr.methods.entry import Entry
from geosr.options import Inputs, Recipe
from geosr.plan import make_plan
from geosr.tiling import smallest_tile

QUICK = {
    "mmsr": {"epochs": 2, "channels": 16, "source_to_guide": 5, "guide_to_source": 3},
    "p2p": {"steps": 3, "hidden": 300},
    "cmsr": {"steps": 2, "channels": 8, "ensemble": 2, "back_projections": 2},
    "regression": {"model": "forest", "trees": 3, "leaf": 2},
}


@pytest.fixture(params=[name for name in methods.names() if not methods.entry(name).needs_weights])
def method(request):
    return methods.create(request.param, "default", QUICK.get(request.param))


class TestEveryMethod(Conformance):
    """All that are registered."""


class Broken(Method):
    """A method whose answer is not one."""

    name = "broken"

    def __init__(self, values):
        self.values = values

    def predict(self, patch, state, device):
        return Prediction(self.values)


@pytest.mark.parametrize("values", [np.full((40, 36), np.nan, np.float32), np.zeros((3, 3), np.float32)])
def test_an_answer_that_is_none_is_an_error(values):
    with pytest.raises(TileError, match="broken returned"):
        run(make_pair(), Broken(values))


@pytest.mark.parametrize("mode", ["soft:1", "off"])
def test_what_is_not_exact_makes_a_difference(method, mode):
    if method.name == "nearest":
        pytest.skip("is exact as it is")
    pair = make_pair()
    exact, other = (run(pair, method, consistency=Consistency.parse(text)).values for text in ("exact", mode))
    assert (
        np.abs(pool(exact, np.ones(exact.shape, bool), 4)[0] - pool(other, np.ones(exact.shape, bool), 4)[0]).max()
        > 0.01
    )


@pytest.mark.parametrize("scale", [2, 7, 14, 15, 16, 32])
def test_tiles_that_nobody_asks_for_do_at_every_scale(method, scale, tmp_path):
    source, guide = pairs.make_pair(tmp_path, size=70)
    if scale in method.scales:
        plan = make_plan(Inputs(source, guide, scale), Recipe(method.name))
        assert plan.recipe.tile == max(320, smallest_tile(scale, plan.method.halo(scale)))
        assert max(plan.tiles[0].window.times(scale).shape) <= plan.recipe.tile
        assert sum(np.prod(tile.core.shape) for tile in plan.tiles) == 70 * 70


def test_unknown_names_say_what_there_is():
    with pytest.raises(UnavailableError, match=r"mmsr, diffusion, .*bicubic"):
        methods.create("magic")
    with pytest.raises(UsageError, match="preset"):
        methods.create("mmsr", "magic")
    with pytest.raises(UsageError, match="no setting 'magic'"):
        methods.create("mmsr", settings={"magic": 1})
    with pytest.raises(UsageError, match="bicubic has no preset"):
        methods.create("bicubic", "magic")


def test_without_compiled_kernels_a_run_says_so(tmp_path, monkeypatch):
    from pairs import make_pair, upscale

    from geosr.methods import compiled

    make_pair(tmp_path)
    quick = ("--set", "epochs=1", "--set", "channels=4")
    assert "C compiler" not in upscale(tmp_path, *quick, method="mmsr").err or compiled.library() is None
    monkeypatch.setattr(compiled, "library", lambda: None)
    slow = upscale(tmp_path, *quick, "--overwrite", method="mmsr")
    assert slow.code == 0
    assert "installed without a C compiler" in slow.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch can use this machine's GPU")
def test_a_gpu_that_torch_cannot_use_is_pointed_out(tmp_path, monkeypatch):
    """The driver's folder of GPUs stands for one that is there; that torch cannot use it is so."""
    from pairs import make_pair, upscale

    from geosr import device

    make_pair(tmp_path)
    (tmp_path / "gpus" / "0000:17:00.0").mkdir(parents=True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    quick = ("--set", "epochs=1", "--set", "channels=4", "--overwrite")

    def run(*options):
        return upscale(tmp_path, *quick, *options, method="mmsr")

    words = f"an NVIDIA GPU that the installed torch ({torch.__version__}) cannot use"
    assert "GPU" not in run().err
    monkeypatch.setattr(device, "_DRIVERS_GPUS", tmp_path / "gpus")
    assert words in run().err
    assert "GPU" not in run("--device", "cpu").err
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "GPU" not in run().err


def test_every_method_says_where_it_comes_from_and_auto_has_the_three():
    entries, problems = methods.listing()
    assert problems == []
    assert [entry.name for entry in entries] == [*methods.names()]
    assert all(entry.source and entry.use and entry.summary and not entry.package for entry in entries)
    assert methods.candidates() == ("mmsr", "diffusion", "bicubic")


@pytest.mark.parametrize(
    "wrong",
    [{"name": "Highpass"}, {"name": "auto"}, {"loader": "module"}, {"cost": "cheap"}, {"presets": ("paper",)}],
)
def test_an_entry_that_cannot_be_is_refused(wrong):
    given = {"name": "x", "loader": "m:f", "summary": "", "source": "", "use": "", "cost": "instant"} | wrong
    with pytest.raises(ValueError, match=next(iter(wrong)).rstrip("s")):
        Entry(**given)


def test_a_library_that_is_missing_is_named_with_the_extra_that_brings_it(monkeypatch):
    from dataclasses import replace

    lacking = replace(methods.entry("regression"), libraries=("no-such-library",))
    monkeypatch.setitem(methods.ENTRIES, "regression", lacking)
    with pytest.raises(UnavailableError, match=r"needs no-such-library.*pip install 'geosr\[baselines\]'"):
        methods.create("regression")
