"""Private folders beside an output: gone with their block, and with the next one where a process was killed in it."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager

import pytest
from pairs import contents, geosr, make_pair

from geosr.scratch import scratch_folder

HOLD = """
import sys, time
from pathlib import Path
from geosr import scratch
if sys.argv[2] == "removing":
    scratch.erase = lambda path: (print(path, flush=True), time.sleep(600))
with scratch.scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "made").mkdir()
    (folder / "made" / "half").write_bytes(bytes(1000))
    if sys.argv[2] == "working":
        print(folder, flush=True)
        time.sleep(600)
"""
MOMENTS = pytest.mark.parametrize("moment", ["working", "removing"])


@contextmanager
def holder(beside, moment):
    """Another process in a scratch folder of that path, or at removing it."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(beside), moment], stdout=subprocess.PIPE, text=True)
    try:
        process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


@MOMENTS
def test_what_a_killed_process_leaves_is_removed_by_the_next_command(moment, tmp_path):
    pair = make_pair(tmp_path)
    with holder(tmp_path / "pairs", moment):
        assert [*tmp_path.glob(".pairs.*/made/half")]
    assert [*tmp_path.glob(".pairs.*/made/half")]
    done = geosr("tile", *pair, "-o", tmp_path / "pairs", "--scale", 4)
    assert done.code == 0, done.err
    assert {path.name for path in tmp_path.iterdir()} == {"source.tif", "guide.tif", "pairs"}


@MOMENTS
def test_what_a_living_process_holds_is_left_alone(moment, tmp_path):
    with holder(tmp_path / "out.tif", moment):
        held = contents(tmp_path)
        with scratch_folder(tmp_path / "out.tif") as mine:
            assert contents(tmp_path).keys() == held.keys() | {mine.name}
        assert contents(tmp_path) == held


def test_two_in_one_process_leave_each_other_alone(tmp_path):
    with scratch_folder(tmp_path / "out.tif") as first, scratch_folder(tmp_path / "out.tif") as second:
        assert first != second
        (first / "a").write_text("a")
    assert not [*tmp_path.iterdir()]


def test_nothing_else_is_removed(tmp_path):
    """Other outputs' folders, files and links of such a name, and what links lead to."""
    with holder(tmp_path / "out.tif.b", "working"):
        pass
    for name in (".out.tif.geosr", ".out.tif.ABCDEFGH.geosr", ".out.tif-abcdefgh.geosr", ".outXtif.abcdefgh.geosr"):
        (tmp_path / name).mkdir()
    (tmp_path / ".out.tif.abcdefgh.geosr").write_text("a file")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "values").write_text("kept")
    (tmp_path / ".out.tif.ijklmnop.geosr").symlink_to(tmp_path / "precious")
    before = contents(tmp_path)
    with scratch_folder(tmp_path / "out.tif"):
        pass
    assert contents(tmp_path) == before
