"""The papers' tables on small data sets in the documented layouts, and on the real samples."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from outputs import block_means
from pairs import geosr, write_png, write_samples, write_view
from rasters import shared_data

from geosr.datasets import middlebury
from geosr.dfc2019 import dfc2019
from geosr.errors import InputError
from geosr.protocols import published, rerun


def bicubic(truth, scale):
    """Cubic convolution projected onto the source, in plain torch and numpy."""
    low = block_means(truth, scale)
    high = F.interpolate(torch.tensor(low)[None, None], scale_factor=scale, mode="bicubic")[0, 0].numpy()
    return high + np.kron(low - block_means(high, scale), np.ones((scale, scale)))


def test_middlebury_in_groups_beside_the_published_numbers(tmp_path):
    write_samples(tmp_path / "2003", ["026", "235"])
    write_samples(tmp_path / "2014", ["01_1"])
    done = rerun("middlebury", tmp_path, 8, {"bicubic": ("bicubic", "default"), "d": ("diffusion", "default")})
    rows = [dict(zip(done.table.columns, row, strict=True)) for row in done.table.rows]
    assert [(row["images"], row["scale"], row["pairs"]) for row in rows] == [("2003", "x8", 2), ("2014", "x8", 1)]
    expected = []
    for sample in middlebury(tmp_path)[:2]:
        truth = sample.read(8).truth
        expected.append(np.sqrt(((bicubic(truth, 8) - truth) ** 2).mean()))
    assert rows[0]["bicubic"] == pytest.approx(np.mean(expected), rel=1e-5)
    assert rows[0]["d"] < rows[0]["bicubic"]
    assert (rows[0]["MMSR*"], rows[1]["DKN*"], rows[1]["CMSR*"]) == (2.63, 4.21, None)
    assert "2003: published over 14 pairs, here 2" in done.notes


def test_published_numbers_are_those_of_the_paper():
    assert published("2005", 4) == {"DKN": 3.14, "FDKN": 2.79, "FDSR": 2.74, "P2P": 3.78, "CMSR": 3.51, "MMSR": 2.47}
    assert published("dfc2019", 8)["MMSR"] == 1.02
    assert published("dfc2019", 3) == {}


def test_dfc2019_takes_one_whole_view_of_a_tile(tmp_path):
    write_view(tmp_path, "JAX_004_006", hole=True)
    heights = write_view(tmp_path, "JAX_004_010")
    write_view(tmp_path, "JAX_004_011")
    write_view(tmp_path, "OMA_211_001", hole=True)
    samples = dfc2019(tmp_path)
    assert [sample.name for sample in samples] == [f"JAX_004_010_{r}_{c}" for r in (0, 320) for c in (0, 320)]
    np.testing.assert_array_equal(samples[1].read(4).truth, heights[:320, 320:])
    done = geosr("evaluate", "--protocol", "dfc2019", tmp_path, "--methods", "bicubic", "--json", tmp_path / "out.json")
    assert done.code == 0, done.err
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["table"][0]["MMSR*"] == 0.73
    assert len(content["rmse"]["dfc2019"]) == 4
    assert "a list of our own" in done.err


def test_the_real_samples_come_out_as_in_the_readme():
    folder = shared_data() / "middlebury"
    done = rerun("middlebury", folder, 4, {"bicubic": ("bicubic", "default")})
    (row,) = (dict(zip(done.table.columns, row, strict=True)) for row in done.table.rows)
    assert row["bicubic"] == pytest.approx(2.580, abs=5e-4)
    assert row["MMSR*"] == pytest.approx(1.434, abs=5e-4)


def test_refusals(tmp_path):
    with pytest.raises(InputError, match="no guide/ and source_hr/"):
        middlebury(tmp_path)
    with pytest.raises(InputError, match="no pairs of Track 1"):
        dfc2019(tmp_path)
    write_samples(tmp_path, ["a", "b"])
    (tmp_path / "guide" / "b.png").unlink()
    with pytest.raises(InputError, match="b lies in one of"):
        middlebury(tmp_path)
    write_png(tmp_path / "guide" / "b.png", np.zeros((3, 20, 20), "uint8"))
    with pytest.raises(InputError, match="same pixels"):
        middlebury(tmp_path)[1].read(4)
    write_view(tmp_path, "JAX_004_006", hole=True)
    with pytest.raises(InputError, match="invalid heights"):
        dfc2019(tmp_path)
    missing = geosr("evaluate", "--protocol", "middlebury", tmp_path / "nowhere")
    assert missing.code == 3
    assert "is no folder" in missing.err
    unknown = geosr("evaluate", "--protocol", "middlebury", tmp_path, "--methods", "magic")
    assert unknown.code == 4
    preset = geosr("evaluate", "--protocol", "middlebury", tmp_path, "--methods", "mmsr:paper")
    assert preset.code == 2
    assert "no preset 'paper'" in preset.err


@pytest.mark.parametrize(
    "text", ["image,RMSE\na,1.5\n", "name,rmse\na,1.5\nb\n", "name,rmse\na,good\n", "name,rmse\n\udcff,1\n"]
)
def test_another_list_beside_the_images_is_refused_before_the_work(text, tmp_path):
    write_samples(tmp_path, ["a", "b"])
    (tmp_path / "mmsr_authors_x4.csv").write_text(text, encoding="utf-8", errors="surrogateescape")
    told = []
    with pytest.raises(InputError, match=r"mmsr_authors_x4\.csv: is no CSV of the columns name and rmse"):
        rerun("middlebury", tmp_path, 4, {"b": ("bicubic", "default")}, on_pair=lambda *line: told.append(line))
    assert not told
