"""A run that needs more memory than there is, is refused before it starts, with what would do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pairs import contents, geosr, make_pair, upscale

from geosr import methods
from geosr.errors import UsageError
from geosr.machine import group_limits, memory_limit
from geosr.memory import Load, Memory
from geosr.methods.classic import Interpolation
from geosr.options import Inputs, Recipe
from geosr.plan import make_plan


@dataclass(frozen=True)
class Hungry(Interpolation):
    """Bicubic that says it takes `share` of this machine's memory for a tile of 64 x 64 pixels."""

    share: float = 0.0

    def memory(self, bands, shape, scale):
        return int(self.share * memory_limit() * shape[0] * shape[1] / 64**2)


@pytest.fixture
def hungry(tmp_path, monkeypatch):
    """A pair in nine tiles of 64 pixels, upscaled by a method that says it takes so much."""
    make_pair(tmp_path, size=28)

    def run(share, *options):
        monkeypatch.setattr(
            "geosr.methods.classic.create_bicubic", lambda preset, settings: Hungry("bicubic", 2, share=share)
        )
        return upscale(tmp_path, "--tile", 64, *options)

    return run


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_more_workers_than_there_is_memory_for_are_refused(hungry, scheduler, tmp_path):
    before = contents(tmp_path)
    done = hungry(0.4, "--workers", 3, "--scheduler", scheduler)
    assert done.code == 2
    assert re.fullmatch(r"Error: the run needs about [\d.,]+ GB of memory and [\d.,]+ GB are there; "
                        r"--workers 2 would do\n", done.err)  # fmt: skip
    assert contents(tmp_path) == before
    assert hungry(0.4, "--workers", 2).code == 0


def test_no_more_tiles_are_counted_than_there_are(hungry):
    assert hungry(0.1, "--workers", 1000).code == 0


def test_unasked_there_are_as_many_workers_as_there_is_memory_for(hungry, monkeypatch):
    monkeypatch.setattr("geosr.placement.processors", lambda: 64)
    assert hungry(0.9).code == 0


def test_a_tile_that_is_too_large_is_refused_with_one_that_is_not(hungry, tmp_path):
    done = hungry(2.0, "--workers", 2)
    assert done.code == 2
    (side,) = re.findall(r"; --workers 1 --tile (\d+) would do\n", done.err)
    assert 40 < int(side) < 64 / 2**0.5
    done = hungry(2.0, "--workers", 1, "--tile", side)
    assert done.code == 0, done.err
    assert "there; no smaller tile of bicubic would do\n" in hungry(1e6, "--overwrite").err


def test_a_dry_run_says_so_too(hungry):
    done = hungry(2.0, "--dry-run")
    assert re.search(r"^memory +about [\d.]+ GB, more than this machine has$", done.out, re.MULTILINE)


def test_a_real_method_is_refused_too(tmp_path):
    make_pair(tmp_path)
    done = upscale(tmp_path, "--set", "channels=100000000", method="mmsr")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert set(contents(tmp_path)) == {"source.tif", "guide.tif"}
    assert geosr("info", tmp_path / "source.tif", tmp_path / "guide.tif").code == 0


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    pair = make_pair(tmp_path_factory.mktemp("plan"), size=100)
    return make_plan(Inputs(*pair), Recipe(fit="tile", tile=200))


@settings(deadline=None)
@given(
    workers=st.integers(1, 40),
    batch=st.integers(1, 9),
    processes=st.booleans(),
    limit=st.integers(int(3e8), int(2e10)),
)
def test_what_is_advised_is_accepted_and_asks_for_no_less_than_needed(plan, workers, batch, processes, limit):
    load = Load(plan, workers, batch, processes)
    if load.peak <= limit:
        return load.check(limit)
    with pytest.raises(UsageError) as refused:
        load.check(limit)
    advised = {name: int(value) for name, value in re.findall(r"--(\w+) (\d+)", str(refused.value))}
    if not advised:
        assert limit < Load(plan, 1, 1, processes).peak
        return None
    tile = advised.get("tile")
    other = plan if tile is None else make_plan(plan.inputs, Recipe(fit="tile", tile=tile))
    taken = Load(other, advised["workers"], advised.get("batch", batch), processes)
    taken.check(limit)
    if tile is None and "batch" not in advised:
        assert Load(plan, taken.workers + 1, batch, processes).peak > limit
    return None


def test_parts_of_the_memory_are_never_more_than_all():
    memory, held, most, waited = Memory(10), [], [], []
    begin = threading.Barrier(8)

    def work(size):
        begin.wait()
        for _ in range(50):
            with memory.part(size, lambda: waited.append(size)):
                held.append(size)
                most.append(sum(held))
                time.sleep(0)
                held.remove(size)

    threads = [threading.Thread(target=work, args=(size,), daemon=True) for size in (1, 2, 3, 3, 4, 5, 7, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(most) == 8 * 50
    assert max(most) <= 10
    assert waited


def test_a_part_is_free_again_after_an_error():
    memory = Memory(10)
    for _ in range(3):
        with pytest.raises(KeyError), memory.part(8, lambda: pytest.fail("nobody else is there")):
            raise KeyError


def test_the_machine_has_no_more_than_it_says():
    assert 0 < memory_limit() <= psutil.virtual_memory().total


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("groups", "files", "limits"),
    [
        ("0::/\n", {}, []),  # not in a container: the root has no limit
        ("0::/\n", {"memory.max": "2000"}, [2000]),  # in a container
        ("0::/a/b c:1\n", {"a/b c:1/memory.max": "max", "a/memory.max": "3000"}, [3000]),  # a job's slice
        ("0::/a/b\n", {"a/b/memory.max": "1000", "a/memory.max": "3000"}, [1000, 3000]),
        ("5:cpu,cpuacct:/a\n4:memory:/job\n0::/\n", {"memory/job/memory.limit_in_bytes": "4000",
         "memory/memory.limit_in_bytes": "9223372036854771712"}, [4000, 9223372036854771712]),
        ("4:memory:/seen/only/outside\n", {"memory/memory.limit_in_bytes": "5000"}, [5000]),
    ],
)  # fmt: skip
def test_what_control_groups_allow(groups, files, limits, tmp_path):
    """As Linux lays them out: https://docs.kernel.org/admin-guide/cgroup-v2.html, memory.rst of version 1."""
    write(tmp_path / "self", groups)
    for name, text in files.items():
        write(tmp_path / "root" / name, text + "\n")
    assert [*group_limits(tmp_path / "self", tmp_path / "root")] == limits


MEASURE = """
import sys
from pathlib import Path
import numpy as np
import torch
from geosr import methods
from geosr.consistency import EXACT
from geosr.methods.solve import solve
from geosr.pair import Pair, Stats

def kilobytes(key):
    return int(Path("/proc/self/status").read_text().partition(key)[2].split()[0])

def work(name, settings, side, scale):
    rng = np.random.default_rng(0)
    guide, source = rng.normal(size=(3, side, side)), rng.normal(size=(side // scale, side // scale))
    valid = np.ones((side, side), bool)
    pair = Pair(guide.astype("float32"), valid, source, valid[::scale, ::scale])
    before = kilobytes("RssAnon:")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    stats = Stats.measure([pair])
    solve(pair, methods.create(name, settings=settings), stats=stats, consistency=EXACT, seed=0, device="cpu")
    # not what libraries are mapped from: the system takes such pages away and brings them back as it likes
    return kilobytes("VmHWM:") - kilobytes("RssFile:") - before

torch.set_num_threads(1)
name, settings, scale = sys.argv[1], eval(sys.argv[2]), int(sys.argv[3])
work(name, settings, 64, scale)  # what is imported and kept
print(1000 * work(name, settings, 640, scale))
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="only Linux says a process's peak anew")
@pytest.mark.parametrize(
    ("name", "changes", "scale"),
    [
        ("bicubic", {}, 4),
        ("guided-filter", {}, 4),
        ("joint-bilateral", {}, 4),
        ("regression", {}, 4),
        ("p2p", {"steps": 2}, 4),
        ("p2p", {"steps": 2}, 32),
    ],
)
def test_a_tile_takes_no_more_than_its_method_says(name, changes, scale):
    said = methods.create(name, settings=changes).memory(3, (640, 640), scale)
    command = [sys.executable, "-c", MEASURE, name, repr(changes), str(scale)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 0.4 * said < int(done.stdout) < 1.15 * said


def test_without_control_groups_there_are_no_limits():
    assert not [*group_limits(Path("/nowhere"), Path("/nowhere"))]
