"""Runs that are interrupted or killed leave nothing broken, and of what was done a hidden folder to go on from."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from pairs import contents, make_pair

PATIENCE = 300  # seconds until a run must have begun its tiles, on a busy machine


@pytest.fixture(autouse=True)
def interruptible():
    """Children of a job in the background would otherwise inherit that it ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def folder(tmp_path):
    make_pair(tmp_path, size=60)
    return tmp_path


@pytest.fixture
def start(folder):
    """Starts a run that would take hours and waits until its tiles are in progress."""
    started = []

    def begin(*more, by=()):
        options = ["--tile", "112", "--fit", "tile", "--set", "epochs=1000000", *more]  # the last of an option counts
        pair = ["--source", "source.tif", "--guide", "guide.tif", "-o", "out.tif"]
        run = subprocess.Popen(
            [*by, sys.executable, "-m", "geosr", "upscale", *pair, *options],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(run)
        watch = threading.Timer(PATIENCE, run.kill)
        watch.start()
        assert run.stderr.readline().startswith("tiles: 0 of ")
        watch.cancel()
        time.sleep(0.5)  # into the work
        assert run.poll() is None
        return run

    yield begin
    for run in started:
        run.kill()
        run.communicate()


def end(run, number):
    """Send the signal; the exit code and what was said since, if the end comes in ten seconds."""
    children = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(number)
    out, err = run.communicate(timeout=600)
    assert out == ""
    assert psutil.wait_procs(children, timeout=600)[1] == []
    return run.returncode, err.strip()


@pytest.mark.chaos
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_interrupted_before_any_tile_is_done_leaves_nothing(number, start, folder):
    before = contents(folder)
    assert end(start(), number) == (130, "interrupted; nothing was written")
    assert contents(folder) == before


@pytest.mark.chaos
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_the_finished_tiles_in_a_hidden_folder_and_names_it(number, start, folder):
    before = contents(folder)
    run = start("--preset", "paper-dem", "--set", "channels=4", "--set", "epochs=4")
    while not (tiles := [*folder.glob(".out.tif-*.geosr/tiles/*.tile")]):
        time.sleep(0.005)
    code, said = end(run, number)
    kept = tiles[0].parents[1]
    count = len([*kept.glob("tiles/*")])
    assert code == 130
    told = [  # a tile in progress may come in after the count
        f"interrupted; finished tiles ({number}) are kept in {kept}; run the same command again to continue"
        for number in (count - 1, count)
    ]
    assert said.splitlines()[-1] in told
    assert {name: digest for name, digest in contents(folder).items() if not name.startswith(".")} == before
    assert sorted(path.name for path in kept.iterdir()) == ["lock", "run.json", "tiles"]


@pytest.mark.chaos
@pytest.mark.parametrize(("workers", "number"), [("1", signal.SIGINT), ("3", signal.SIGHUP)])
def test_an_interrupted_run_leaves_the_old_output(workers, number, start, folder):
    (folder / "out.tif").write_text("precious")
    before = contents(folder)
    assert end(start("--overwrite", "--workers", workers), number)[0] == 130
    assert contents(folder) == before


@pytest.mark.chaos
def test_a_killed_run_leaves_the_old_output(start, folder):
    (folder / "out.tif").write_text("precious")
    before = contents(folder)
    assert end(start("--overwrite"), signal.SIGKILL)[0] == -signal.SIGKILL
    left = {name: digest for name, digest in contents(folder).items() if not name.startswith(".")}
    assert left == before


@pytest.mark.chaos
def test_ctrl_c_twice_ends_it_as_well(start, folder):
    (folder / "out.tif").write_text("precious")
    before = contents(folder)
    run = start("--overwrite", "--scheduler", "processes", "--workers", "1")
    children = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(signal.SIGINT)
    time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=60)
    assert run.returncode in (130, -signal.SIGINT)
    assert psutil.wait_procs(children, timeout=30)[1] == []
    left = {name: digest for name, digest in contents(folder).items() if not name.startswith(".")}
    assert left == before


@pytest.mark.chaos
def test_nohup_is_respected(start):
    run = start(by=["sh", "-c", 'trap "" HUP; exec "$@"', "sh"])
    run.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert run.poll() is None
    assert end(run, signal.SIGTERM)[0] == 130


@pytest.mark.chaos
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a signal be given to a thread from outside")
def test_a_signal_that_another_thread_gets_ends_the_run(start):
    run = start()
    threads = [int(name) for name in os.listdir(f"/proc/{run.pid}/task")]
    os.kill(next(thread for thread in threads if thread != run.pid), signal.SIGTERM)
    run.communicate(timeout=60)
    assert run.returncode == 130


@pytest.mark.chaos
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_while_an_object_is_destroyed_is_not_lost(number):
    code = f"""
import os, time
from geosr_cli.interrupt import Interruption

class Destroyed:
    def __del__(self):
        os.kill(os.getpid(), {number:d})
        print("raised above")

Interruption().begin()
kept = Destroyed()
del kept
print("swallowed")
try:
    time.sleep(60)
except KeyboardInterrupt:
    print("came again")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.stdout.split("\n"), done.stderr) == (["swallowed", "came again", ""], "")


@pytest.mark.chaos
def test_a_reader_of_the_progress_who_leaves_does_not_end_the_run(folder):
    pair = ["--source", "source.tif", "--guide", "guide.tif", "-o", "out.tif"]
    run = subprocess.Popen(
        [sys.executable, "-m", "geosr", "upscale", *pair, "--method", "bicubic", "--tile", "112", "-v"],
        cwd=folder,
        stderr=subprocess.PIPE,
    )
    run.stderr.close()
    assert run.wait(PATIENCE) == 0
    assert (folder / "out.tif").is_file()


def on_terminal(folder, *more, interrupt=None):
    """What a run shows on a terminal, and its exit code; it is interrupted once it shows `interrupt`."""
    ours, theirs = pty.openpty()
    arguments = ["--source", "source.tif", "--guide", "guide.tif", "-o", "out.tif", *more]
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "CI")}
    run = subprocess.Popen(
        [sys.executable, "-m", "geosr", "upscale", *arguments],
        cwd=folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment | {"TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(theirs)
    seen, stop = b"", time.monotonic() + PATIENCE
    try:
        while time.monotonic() < stop:
            if not select.select([ours], [], [], 0.2)[0]:
                continue
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not chunk:
                break
            seen += chunk
            if interrupt and re.search(interrupt, seen):
                run.send_signal(signal.SIGINT)
                interrupt = None
        return run.wait(10), seen.decode()
    finally:
        run.kill()
        run.wait()
        os.close(ours)


def test_a_bar_on_a_terminal(folder):
    code, seen = on_terminal(folder, "--method", "bicubic", "--tile", "112")
    assert code == 0
    assert "━" in seen
    assert len({total for _, total in re.findall(r"(\d+)/(\d+)", seen)}) == 1
    assert "0/" in seen
    assert seen.rindex("\x1b[?25h") > seen.rindex("━")  # the cursor is back
    kept = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen).splitlines()
    assert sum(f"wrote {Path(folder).resolve() / 'out.tif'} in" in line for line in kept) == 1


def test_no_bar_when_quiet(folder):
    assert on_terminal(folder, "--method", "bicubic", "--quiet") == (0, "")


@pytest.mark.chaos
@pytest.mark.parametrize("moment", [rb"starting", rb"0/\d"])
def test_ctrl_c_on_a_terminal(moment, folder):
    before = contents(folder)
    code, seen = on_terminal(folder, "--tile", "112", "--fit", "tile", "--set", "epochs=1000000", interrupt=moment)
    assert code == 130
    assert "interrupted; nothing was written" in seen
    assert "Traceback" not in seen
    assert "\x1b[?25h" in seen
    assert contents(folder) == before
