"""FDSR, FDKN and DKN: the networks against their papers in plain terms, and as methods with weights of a file."""

import json
import pickle
import struct
from dataclasses import asdict, replace

import numpy as np
import pytest
import rasterio
import rasters
import torch
import torch.nn.functional as F
from conformance import Conformance, run
from conformance import make_pair as make_arrays
from outputs import check_cog, check_grid, check_means
from pairs import contents, geosr, make_pair, upscale, write_samples
from safetensors import safe_open
from safetensors.numpy import save_file
from scipy.ndimage import map_coordinates
from trained import NETWORKS, untrained, write_weights

from geosr import methods
from geosr.datasets import middlebury
from geosr.errors import InputError
from geosr.events import Note, Progress
from geosr.methods.dkn_network import Dkn, _samples
from geosr.methods.fdsr_network import Fdsr
from geosr.methods.weights import pack, unpack
from geosr.options import Execution, Inputs, Recipe
from geosr.pipeline import upscale_file


@pytest.fixture(params=NETWORKS)
def name(request):
    return request.param


class TestTheTrainedMethods(Conformance):
    """What every method promises."""

    @pytest.fixture
    def method(self, name, tmp_path):
        return methods.create(name, weights=write_weights(tmp_path / "w.safetensors", method=name))


PUBLISHED = {"fdsr": 0.60e6, "fdkn": 0.69e6, "dkn": 1.16e6}
"""Weights of the published networks, as the papers' tables have them."""


def test_the_published_networks_have_as_many_weights(name):
    network = untrained(name, features=32)[1].network
    assert sum(weight.numel() for weight in network.parameters()) == pytest.approx(PUBLISHED[name], rel=0.03)


def test_a_network_looks_as_far_as_its_halo_says_and_no_further(name, tmp_path):
    made = methods.create(name, weights=write_weights(tmp_path / "w.safetensors", method=name))
    reach = made.halo(4) - 2 * 4  # without the interpolation's two source pixels
    network = untrained(name)[1].network.eval()
    side = 2 * (reach + 12) // 8 * 8
    furthest = 0
    for pixel in range(side // 2, side // 2 + 8):
        inputs = [torch.randn(1, bands, side, side, requires_grad=True) for bands in (3, 1)]
        slopes = torch.autograd.grad(network(*inputs)[0, 0, pixel, pixel], inputs)
        for slope in slopes:
            rows = slope.abs().sum((0, 1, 3)).nonzero().flatten()
            furthest = max(furthest, pixel - int(rows[0]), int(rows[-1]) - pixel)
    assert furthest == reach


def test_fdsr_is_the_papers_network():
    """Written out layer by layer, with folding and the octaves' pooling in numpy's terms."""
    network = Fdsr(3, 8, colour=0).double()
    w = dict(network.state_dict())
    rng = np.random.default_rng(0)
    guide, start = (torch.from_numpy(rng.normal(size=(1, bands, 24, 40))) for bands in (3, 1))

    def conv(key, x, dilation=1):
        return F.conv2d(x, w[f"{key}.weight"], w.get(f"{key}.bias"), padding=dilation, dilation=dilation)

    def leaky(x):
        return torch.where(x > 0, x, 0.2 * x)

    def fold(x):
        return torch.cat([x[:, :, i::4, j::4] for i in range(4) for j in range(4)], 1)

    def block(key, x):
        mixed = leaky(conv(f"{key}.near", x)) + leaky(conv(f"{key}.far", x, 2))
        return x + F.conv2d(mixed, w[f"{key}.mix.weight"], w[f"{key}.mix.bias"])

    def halve(x):
        return x.reshape(*x.shape[:2], x.shape[2] // 2, 2, x.shape[3] // 2, 2).mean((3, 5))

    luminance = 0.299 * guide[:, :1] + 0.587 * guide[:, 1:2] + 0.114 * guide[:, 2:]
    fine, coarse = leaky(conv("guide_stem", fold(luminance))), None
    features = block("first", leaky(conv("source_stem", fold(start))))
    for i in range(3):
        new_fine, new_coarse = conv(f"octaves.{i}.fine_to_fine", fine), conv(f"octaves.{i}.fine_to_coarse", halve(fine))
        if coarse is not None:
            up = conv(f"octaves.{i}.coarse_to_fine", coarse).repeat_interleave(2, 2).repeat_interleave(2, 3)
            new_fine, new_coarse = new_fine + up, new_coarse + conv(f"octaves.{i}.coarse_to_coarse", coarse)
        fine, coarse = leaky(new_fine), leaky(new_coarse)
        assert fine.shape[1] == 3 * coarse.shape[1]
        features = block(f"fusions.{i}", torch.cat([features, fine], 1))
    up = F.pixel_shuffle(conv("rise.0", leaky(features)), 2)
    expected = start + conv("last", F.pixel_shuffle(conv("rise.1", up), 2))
    torch.testing.assert_close(network(guide, start), expected, rtol=1e-9, atol=1e-9)


def test_dkn_is_the_papers_network_shifted_and_stitched():
    """The published code runs a network with stride 4 on sixteen shifted copies and puts the results together."""
    network = Dkn(2, 4).double().eval()
    for part in network.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_(), part.running_var.uniform_(0.5, 2)
    guide = torch.randn(1, 2, 12, 16, dtype=torch.float64)
    dense = network.guide(F.pad(guide, (25, 24, 25, 24)))
    stitched = torch.zeros_like(dense)
    for i in range(4):
        for j in range(4):
            x = F.pad(guide, (25 - j, 22 + j, 25 - i, 22 + i))
            for layer in network.guide:
                if isinstance(layer, torch.nn.Conv2d):
                    x = F.conv2d(x, layer.weight, layer.bias, stride=2 if layer.kernel_size == (2, 2) else 1)
                else:
                    x = layer(x)
            stitched[:, :, i::4, j::4] = x
    torch.testing.assert_close(dense, stitched, rtol=1e-9, atol=1e-9)


def test_samples_lie_where_the_offsets_say():
    rng = np.random.default_rng(1)
    image, offset = rng.normal(size=(9, 11)), rng.normal(0, 4, (2, 9, 9, 11))
    given = (torch.from_numpy(array).float() for array in (image[None, None], offset.reshape(1, 18, 9, 11)))
    found = _samples(*given)
    row, col = np.mgrid[:9, :11]
    for sample in range(9):
        moved = [np.clip(offset[axis, sample] + (sample // 3, sample % 3)[axis] - 1, -7, 7) for axis in (0, 1)]
        expected = map_coordinates(image, [row + moved[0], col + moved[1]], order=1, mode="nearest")
        np.testing.assert_allclose(found[0, sample].numpy(), expected, atol=1e-5)


def test_a_constant_stays_what_it_is_with_deformable_kernels():
    """Their weights add up to zero: nothing is added to a source without any detail."""
    network = untrained("fdkn")[1].network.eval()
    start = torch.full((1, 1, 32, 32), 0.7)
    torch.testing.assert_close(network(torch.randn(1, 3, 32, 32), start), start)


def test_an_upscaled_scene_is_consistent_in_its_place_and_names_its_weights(name, tmp_path):
    make_pair(tmp_path, size=40)
    weights = write_weights(tmp_path / "w.safetensors", method=name)
    given = ("--weights", weights, "--tile", "144")
    assert upscale(tmp_path, *given, "--workers", "1", method=name).code == 0
    check_means(tmp_path / "source.tif", tmp_path / "out.tif", 4)
    check_grid(tmp_path / "source.tif", tmp_path / "out.tif", 4)
    check_cog(tmp_path / "out.tif")
    with rasterio.open(tmp_path / "out.tif") as made:
        tags = made.tags()
    assert tags["GEOSR_METHOD"] == name
    assert tags["GEOSR_WEIGHTS"] == "w.safetensors"
    assert tags["GEOSR_WEIGHTS_DIGEST"] == methods.create(name, weights=weights).weights.digest
    assert upscale(tmp_path, *given, "--workers", "2", output="two.tif", method=name).code == 0
    assert (tmp_path / "out.tif").read_bytes() == (tmp_path / "two.tif").read_bytes()


def test_worker_processes_give_the_same_bytes(tmp_path):
    make_pair(tmp_path, size=40)
    given = ("--weights", write_weights(tmp_path / "w.safetensors"), "--tile", "160")
    for output, more in (("threads.tif", ()), ("processes.tif", ("--scheduler", "processes", "--workers", "1"))):
        assert upscale(tmp_path, *given, *more, output=output, method="fdsr").code == 0
    assert (tmp_path / "threads.tif").read_bytes() == (tmp_path / "processes.tif").read_bytes()


def test_masks_hold_for_a_scene(tmp_path):
    """Gaps of source and guide as for every method: nodata stays nodata, and what is stored there has no say."""
    make_pair(tmp_path, nodata=-9999.0)
    weights = write_weights(tmp_path / "w.safetensors")
    for stored, output in ((-9999.0, "a.tif"), (np.nan, "b.tif")):
        with rasterio.open(tmp_path / "source.tif", "r+") as file:
            values = file.read(1)
            values[3:6, 4:9] = stored
            file.write(values, 1)
        assert upscale(tmp_path, "--weights", weights, output=output, method="fdsr").code == 0
        check_means(tmp_path / "source.tif", tmp_path / output, 4, nodata=-9999.0)
    with rasterio.open(tmp_path / "a.tif") as a, rasterio.open(tmp_path / "b.tif") as b:
        np.testing.assert_array_equal(a.read(1), b.read(1))


def interrupt_and_continue(folder, weights, other):
    """A run that ends after its first tiles, as Ctrl-C ends it, and the same once more with `other` weights."""

    def stop(event):
        if isinstance(event, Progress) and 0 < event.done < event.total:
            raise KeyboardInterrupt

    def go_on(file, on_event):
        inputs = Inputs(folder / "source.tif", folder / "guide.tif")
        execution = Execution("cpu", 1, overwrite=True, on_event=on_event)
        return upscale_file(inputs, Recipe("fdkn", weights=file, tile=128), execution, folder / "out.tif")

    with pytest.raises(KeyboardInterrupt):
        go_on(weights, stop)
    told = []
    return go_on(other, told.append), [event.text for event in told if isinstance(event, Note)]


def test_an_interrupted_run_goes_on_with_the_same_weights_and_not_with_others(tmp_path):
    make_pair(tmp_path, size=48)
    weights, renamed = write_weights(tmp_path / "w.safetensors", method="fdkn"), tmp_path / "renamed.safetensors"
    renamed.write_bytes(weights.read_bytes())
    report, _ = interrupt_and_continue(tmp_path, weights, renamed)
    assert 0 < report.resumed < report.tiles
    other = write_weights(tmp_path / "other.safetensors", method="fdkn", features=12)
    report, notes = interrupt_and_continue(tmp_path, weights, other)
    assert report.resumed == 0
    assert any("not continued but started afresh: weights" in note for note in notes)


NO_NETWORKS = {
    "more of a network": {"features": 8, "colour": 1, "depth": 3},
    "less of a network": {"features": 8},
    "no such width": {"features": 10, "colour": 1},
    "no such colour": {"features": 8, "colour": 2},
}


def test_weights_with_a_header_of_any_length_are_opened():
    """A header of 128, 384, 640 ... bytes makes the file begin as a pickle does."""
    arrays, starts = {"weight": np.arange(3, dtype=np.float32)}, set()
    for length in range(0, 256, 4):
        about = {"text": "x" * length}
        data = pack(arrays, about)
        starts.add(data[0])
        found, told = unpack(data)
        assert told == about
        np.testing.assert_array_equal(found["weight"], arrays["weight"])
    assert 0x80 in starts


def spoil(folder, how):
    """A file of weights that something is wrong with."""
    path = write_weights(folder / "w.safetensors")
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(data[:-100])
    elif how == "flipped":
        path.write_bytes(data[:-100] + bytes([data[-100] ^ 1]) + data[-99:])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "torch":
        torch.save(untrained()[1].network.state_dict(), path)
    elif how == "pickle":
        path.write_bytes(pickle.dumps({"weight": np.zeros(3)}))
    elif how == "no card":
        save_file({"weight": np.zeros(3, np.float32)}, path)
    elif how == "folder":
        path.unlink()
        path.mkdir()
    elif how == "not finite":
        card, trainer = untrained()
        path.write_bytes(pack({n: a * np.float32("nan") for n, a in trainer.weights().items()}, asdict(card)))
    elif how in NO_NETWORKS:
        card, trainer = untrained()
        path.write_bytes(pack(trainer.weights(), asdict(replace(card, network=NO_NETWORKS[how]))))
    return path


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("missing", "there is no such file"),
        ("truncated", "is no whole safetensors file"),
        ("flipped", "is damaged"),
        ("empty", "is no whole safetensors file"),
        ("torch", "is a PyTorch file (pickle)"),
        ("pickle", "is a PyTorch file (pickle)"),
        ("no card", "has no model card"),
        ("folder", "holds no weights"),
        ("not finite", "not finite"),
        *((how, "model card is of another version") for how in NO_NETWORKS),
    ],
)
def test_weights_that_are_none_are_refused_in_one_line(how, said, tmp_path):
    make_pair(tmp_path)
    path = spoil(tmp_path, how)
    before = contents(tmp_path)
    outcome = upscale(tmp_path, "--weights", path, method="fdsr")
    assert outcome.code == 3
    assert outcome.err.count("\n") == 1
    assert outcome.err.startswith("Error: ")
    assert said in outcome.err
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("kind", "options", "code", "said"),
    [
        ({"method": "fdkn"}, (), 3, "these are weights of fdkn, not of fdsr"),
        ({"bands": 4}, (), 3, "fdsr with w.safetensors takes a guide of 4 bands; guide.tif has 3"),
        ({"scale": 2}, (), 2, "fdsr with w.safetensors works at scale 2; --scale is 4"),
        ({}, ("--set", "features=4"), 2, "fdsr has no setting"),
        ({}, ("--preset", "paper"), 2, "fdsr has no preset"),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_one_line(kind, options, code, said, tmp_path):
    make_pair(tmp_path)
    weights = write_weights(tmp_path / "w.safetensors", **kind)
    outcome = upscale(tmp_path, "--weights", weights, *options, method="fdsr")
    assert (outcome.code, outcome.err.count("\n")) == (code, 1)
    assert said in outcome.err


def test_weights_missing_or_of_no_use_are_wrong_usage(tmp_path):
    make_pair(tmp_path)
    weights = write_weights(tmp_path / "w.safetensors")
    missing = upscale(tmp_path, method="fdsr")
    assert (missing.code, missing.err.count("\n")) == (2, 1)
    assert "--weights FILE (geosr train --method fdsr makes them)" in missing.err
    for method in ("bicubic", "auto"):
        useless = upscale(tmp_path, "--weights", weights, method=method)
        assert (useless.code, useless.err.count("\n")) == (2, 1)
    output = geosr("upscale", "--source", tmp_path / "source.tif", "--guide", tmp_path / "guide.tif", "-o", weights,
                   "--method", "fdsr", "--weights", weights, "--overwrite")  # fmt: skip
    assert output.code == 2


def test_weights_that_change_during_a_run_fail_its_tiles(tmp_path):
    path = write_weights(tmp_path / "w.safetensors")
    method = methods.create("fdsr", weights=path)
    write_weights(path, features=12)
    with pytest.raises(InputError, match="have changed since the run began"):
        run(make_arrays(), method)


@pytest.mark.parametrize("change", [np.float64, lambda array: array[None]])
def test_weights_of_another_kind_than_the_cards_network_are_refused(change, tmp_path):
    card, trainer = untrained()
    (tmp_path / "w.safetensors").write_bytes(
        pack({name: change(array) for name, array in trainer.weights().items()}, asdict(card))
    )
    with pytest.raises(InputError, match="not those of the network on its card"):
        run(make_arrays(), methods.create("fdsr", weights=tmp_path / "w.safetensors"))


def test_the_card_can_be_read_by_other_programs(tmp_path):
    path = write_weights(tmp_path / "w.safetensors", method="fdkn", scale=8, bands=2)
    with safe_open(path, "np") as file:
        told = json.loads(file.metadata()["geosr"])["about"]
        assert file.get_tensor("heads.0.weight.weight").shape == (144, 32, 1, 1)
    assert (told["method"], told["scale"], told["bands"], told["network"]) == ("fdkn", 8, 2, {"features": 8})
    assert struct.unpack("<Q", path.read_bytes()[:8])[0] > 0


def test_methods_and_info_know_of_weights(tmp_path):
    assert "--weights FILE" in geosr("methods", "fdsr").out
    make_pair(tmp_path)
    weights = write_weights(tmp_path / "w.safetensors")
    seen = geosr("info", tmp_path / "source.tif", tmp_path / "guide.tif", "--method", "fdsr", "--weights", weights)
    assert seen.code == 0
    assert "method    fdsr" in seen.out


def test_a_protocol_takes_weights_beside_a_method(tmp_path):
    write_samples(tmp_path / "data", ["a", "b"])
    weights = write_weights(tmp_path / "w.safetensors")
    ask = ("evaluate", "--protocol", "middlebury", tmp_path / "data", "--json", tmp_path / "out.json", "--methods")
    assert geosr(*ask, f"bicubic,fdsr:{weights}").code == 0
    found = json.loads((tmp_path / "out.json").read_text())["rmse"]["data"]
    for name, errors in found.items():
        (sample,) = (sample for sample in middlebury(tmp_path / "data") if sample.name == name)
        true = sample.read(4)
        values = run(true.pair, methods.create("fdsr", weights=weights))
        expected = np.sqrt(((values.values + values.centre - true.truth) ** 2).mean())
        assert errors[f"fdsr:{weights}"] == pytest.approx(expected, rel=1e-5)
    bare, gone = geosr(*ask, "fdsr"), geosr(*ask, f"fdsr:{tmp_path / 'gone'}")
    assert (bare.code, gone.code) == (2, 3)
    assert "fdsr:FILE" in bare.err
    other = geosr(*ask, f"fdsr:{write_weights(weights, scale=2)}")
    assert (other.code, other.err.count("\n")) == (3, 1)
    assert "is for x2 and guides of 3 bands; this is x4 and 3" in other.err


def test_a_batch_takes_weights_and_knows_what_they_made(tmp_path):
    make_pair(tmp_path)
    (tmp_path / "pairs.csv").write_text("source,guide,output\nsource.tif,guide.tif,out.tif\n")
    weights = write_weights(tmp_path / "w.safetensors", method="fdkn")
    command = ("batch", "--manifest", tmp_path / "pairs.csv", "--method", "fdkn", "--weights", weights)
    first, second = geosr(*command), geosr(*command)
    assert (first.code, second.code) == (0, 0)
    assert "1 skipped" in second.out
    write_weights(weights, method="fdkn", features=12)
    third = geosr(*command)
    assert third.code == 5
    assert "made otherwise (weights)" in third.out


def test_from_python(tmp_path):
    import geosr as package

    source, guide = make_pair(tmp_path)
    weights = write_weights(tmp_path / "w.safetensors")
    result = package.upscale(source, guide, method="fdsr", weights=weights, device="cpu")
    assert upscale(tmp_path, "--weights", weights, method="fdsr").code == 0
    with rasterio.open(tmp_path / "out.tif") as made:
        np.testing.assert_array_equal(result.to_numpy(), made.read(1))


def test_all_bands_of_a_source_with_one_file_of_weights(tmp_path):
    make_pair(tmp_path)
    source = rasters.plain_read(tmp_path / "source.tif")
    rasters.write(tmp_path / "two.tif", np.stack([source, 2 * source]), rasters.grid(500000, 5000000, 4))
    weights = write_weights(tmp_path / "w.safetensors")
    made = upscale(tmp_path, "--weights", weights, "--band", "all", source="two.tif", method="fdsr")
    assert made.code == 0, made.err
    assert upscale(tmp_path, "--weights", weights, output="one.tif", method="fdsr").code == 0
    np.testing.assert_array_equal(rasters.plain_read(tmp_path / "out.tif"), rasters.plain_read(tmp_path / "one.tif"))
    with rasterio.open(tmp_path / "out.tif") as file:
        assert file.tags()["GEOSR_WEIGHTS_DIGEST"] == methods.create("fdsr", weights=weights).weights.digest
