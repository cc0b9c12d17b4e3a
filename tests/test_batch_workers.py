"""A batch's pairs share one set of workers: several at once, the same bytes, and what dies costs its pair at most."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field

import psutil
import pytest
from pairs import contents, geosr
from test_batch import SMALL_NETWORK, arguments, fill
from test_schedulers import (
    add_worker,
    content,
    deadly,
    lose,
    processes,
    scheduler,
    wait_for,
    workers_of,
)

from geosr.cluster import connect, start_processes
from geosr.errors import TileError, UnavailableError
from geosr.machine import memory_limit
from geosr.methods.classic import Interpolation

__all__ = ["processes", "scheduler"]  # fixtures

pytestmark = pytest.mark.chaos

TWO = ("--scheduler", "processes", "--workers", "2")
NETWORK = [text for name, value in SMALL_NETWORK["settings"].items() for text in ("--set", f"{name}={value}")]


def begin(folder, *more, method="bicubic", hook=None):
    """The command in a process of its own; `hook` is Python that every one of its processes runs as it starts."""
    if hook:
        (folder / "hook").mkdir(exist_ok=True)
        (folder / "hook/sitecustomize.py").write_text(hook)
    command = [sys.executable, "-m", "geosr", *map(str, arguments(folder, *more, method=method))]
    environment = os.environ | ({"PYTHONPATH": str(folder / "hook")} if hook else {})
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder, env=environment
    )


def finish(folder, *more, **how):
    """Exit code and all that was said."""
    run = begin(folder, *more, **how)
    out, err = run.communicate(timeout=600)
    assert "Traceback" not in err, err
    return run.returncode, out + err


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Four pairs of one tile and one of nine, and what threads make of them."""
    folder = tmp_path_factory.mktemp("pairs")
    fill(folder, ["a", "b", "c", "d"])
    fill(folder, ["large"], size=60)
    assert finish(folder, "--tile", "112")[0] == 0
    (folder / "out").rename(folder / "threads")
    return folder


@pytest.fixture
def folder(pairs, tmp_path):
    """The pairs, in a folder for outputs of its own."""
    for name in ("dsm", "rgb"):
        (tmp_path / name).symlink_to(pairs / name)
    return tmp_path


def same(pairs, folder):
    return contents(folder / "out") == contents(pairs / "threads")


WATCHED = """
import os, sys, time
from pathlib import Path
if "--multiprocessing-fork" in sys.orig_argv:
    import geosr.tile_work
    log = Path({folder!r})
    def watched(method, plan, placement, stats, pair, tile, solve=geosr.tile_work.solve_tile):
        name = plan.inputs.source.name
        (log / f"{{name}}-{{tile.index}}-{{os.getpid()}}.begun").touch()
        stop = time.monotonic() + 200  # not for ever, where the pairs do wait for each other
        while name[0] in "ab" and len({{p.name[0] for p in log.glob("[ab]*.begun")}}) < 2:
            assert time.monotonic() < stop, "the other pair is not in progress"
            time.sleep(0.01)
        return solve(method, plan, placement, stats, pair, tile)
    geosr.tile_work.solve_tile = watched
"""


def test_small_pairs_are_in_work_at_once_on_one_set_of_workers(pairs, folder):
    (folder / "log").mkdir()
    code, said = finish(folder, "--tile", "112", *TWO, hook=WATCHED.format(folder=str(folder / "log")))
    assert code == 0, said  # the first pair's tile waited for the second's
    assert same(pairs, folder)
    begun = [path.name.removesuffix(".begun").split("-") for path in (folder / "log").iterdir()]
    assert len(begun) == 4 + 9
    assert len({process for *_, process in begun}) == 2


KILLED = """
import os, sys
from pathlib import Path
if "--multiprocessing-fork" in sys.orig_argv:
    import geosr.tile_work
    def deadly(method, plan, placement, stats, pair, tile, solve=geosr.tile_work.solve_tile):
        name, once = plan.inputs.source.name[0], Path({folder!r}) / "killed"
        if name == "b" or name == "l" and tile.index == 4 and not once.exists():
            if name == "l":
                once.touch()
            os.kill(os.getpid(), 9)
        return solve(method, plan, placement, stats, pair, tile)
    geosr.tile_work.solve_tile = deadly
"""


def test_a_dead_worker_is_replaced_and_a_tile_that_kills_all_costs_its_pair_only(pairs, folder):
    code, said = finish(folder, "--tile", "112", *TWO, hook=KILLED.format(folder=str(folder)))
    assert code == 5, said
    assert "4 done, 1 failed" in said
    assert "its worker process died, twice" in said
    assert (folder / "killed").exists()
    code, said = finish(folder, "--tile", "112")  # threads go on where the processes were
    assert (code, "1 done, 4 skipped" in said) == (0, True), said
    assert same(pairs, folder)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nobody_is_left_of_an_interrupted_batch(number, folder):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # not ignored, as in a job in the background
    slow = ("--preset", "paper-dem", "--set", "epochs=8", "--set", "channels=4", "--tile", "96")
    run = begin(folder, *slow, *TWO, "--on-tile-error", "interpolate", method="mmsr")
    signal.signal(signal.SIGINT, before)
    wait_for(lambda: [*folder.glob("out/.*.geosr/tiles/*.tile")])
    children = psutil.Process(run.pid).children(recursive=True)
    assert len(workers_of(run)) == 2
    run.send_signal(number)
    said = run.communicate(timeout=600)[1]
    assert psutil.wait_procs(children, timeout=600)[1] == []
    assert "interpolated" not in said  # tiles that went with the workers are not taken for failed ones
    assert "failed" not in said
    if number != signal.SIGKILL:
        assert run.returncode == 130
        assert "Traceback" not in said
        assert said.splitlines()[-1].startswith("interrupted; ")
        assert "run the same command again to continue" in said
        assert not [*folder.glob("out/.*.geosr/workers")]


def test_a_lost_scheduler_ends_the_batch_and_the_same_command_goes_on(pairs, folder, scheduler, processes, tmp_path):
    add_worker(processes, scheduler, tmp_path)
    run = begin(folder, "--tile", "112", "--scheduler", scheduler)
    wait_for(lambda: [*folder.glob("out/.*.geosr/tiles/*.tile"), *folder.glob("out/*.tif")])
    processes[0].kill()
    out, err = run.communicate(timeout=300)
    assert run.returncode == 4, out + err
    assert f"the Dask scheduler {scheduler} was lost" in err
    assert "Traceback" not in err
    assert finish(folder, "--tile", "112")[0] == 0
    assert same(pairs, folder)


def test_no_workers_are_started_for_nothing_or_without_room(tmp_path):
    fill(tmp_path, ["a"])
    many = geosr(*arguments(tmp_path, "--scheduler", "processes", "--workers", 100_000))
    assert (many.code, many.err.count("would leave room for tiles")) == (2, 1)
    assert contents(tmp_path / "out") == {}
    assert geosr(*arguments(tmp_path)).code == 0
    nobody = geosr(*arguments(tmp_path, "--scheduler", "tcp://127.0.0.1:9"))  # an answer is not asked for
    assert (nobody.code, "1 skipped" in nobody.out) == (0, True)


@dataclass(frozen=True)
class Hungry(Interpolation):
    """Bicubic that says it takes so many bytes a tile, and notes how many are in progress."""

    takes: int = 0
    inside: list = field(default_factory=list)
    most: list = field(default_factory=list)

    def memory(self, bands, shape, scale):
        return self.takes

    def predict(self, patch, state, device):
        self.inside.append(1)
        time.sleep(0.05)
        self.most.append(len(self.inside))
        self.inside.pop()
        return super().predict(patch, state, device)


@pytest.mark.parametrize(("share", "at_once", "waiting"), [(0.2, 4, False), (0.4, 2, True), (0.6, 1, True)])
def test_pairs_wait_for_memory_that_others_have(tmp_path, monkeypatch, share, at_once, waiting):
    hungry = Hungry("bicubic", 2, takes=int(share * memory_limit()))
    monkeypatch.setattr("geosr.methods.classic.create_bicubic", lambda preset, settings: hungry)
    fill(tmp_path, ["a", "b", "c", "d"])
    done = geosr(*arguments(tmp_path, "--workers", 4))
    assert done.code == 0, done.err
    assert max(hungry.most) <= at_once
    assert ("until others freed memory" in done.err) == waiting


# --- the pool itself -----------------------------------------------------------------------------------------


def together(*calls):
    """Results of the calls, or what they raised, each on a thread of its own; threads that hang fail."""
    found = {}

    def note(place, call):
        try:
            found[place] = call()
        except Exception as error:
            found[place] = error

    threads = [threading.Thread(target=note, args=each, daemon=True) for each in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(found) == len(calls)
    return [found[place] for place in range(len(calls))]


def test_runs_on_one_pool_get_their_own_results_in_their_own_threads(tmp_path):
    with start_processes(2, tmp_path / "workers") as pool:

        def run(items):
            heard = []
            results = pool.run(
                deadly,
                items,
                on_done=lambda result: heard.append(threading.get_ident()),
                on_lost=lambda item, why: -item,
            )
            assert {*heard} == {threading.get_ident()}
            assert len(heard) == len(items)
            return results

        found = together(
            lambda: run([0, 1, 2, 3, 4]),
            lambda: run([10, 11, 5, *range(20, 60)]),
            *(lambda first=first: run([*range(first, first + 30)]) for first in (100, 200, 300)),
        )
        assert found[0] == [0, 1, 4, -3, 16]
        assert isinstance(found[1], TileError)
        for results, first in zip(found[2:], (100, 200, 300), strict=True):
            assert results == [item * item for item in range(first, first + 30)]


def make_hanging(fifo):
    """Travels as code; the item `None` never comes to an end, others take a moment."""

    def work(item):
        import time

        if item is None:
            with open(fifo) as file:
                file.read()
        time.sleep(0.05)
        return item

    return work


def test_a_hung_worker_is_told_to_the_runs_that_it_worked_for(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    work, told = make_hanging(str(tmp_path / "fifo")), {1: [], 2: []}
    with start_processes(2, tmp_path / "workers", timeout=4) as pool:

        def run(number, items):
            return pool.run(
                work, items, on_done=lambda result: None, on_lost=lambda item, why: why, tell=told[number].append
            )

        hung, fine = together(lambda: run(1, [None, 1]), lambda: run(2, [*range(60)]))
    assert "hung or died, twice: no progress for 4 s" in hung[0]
    assert (hung[1], fine) == (1, [*range(60)])
    assert len(told[1]) == 2  # workers; the other run hears of those that had its items waiting
    assert {*told[2]} <= {*told[1]}


def test_a_worker_that_hangs_with_items_of_two_runs_is_ended(scheduler, processes, tmp_path):
    add_worker(processes, scheduler, tmp_path, "--nthreads", "2")
    os.mkfifo(tmp_path / "fifo")
    work = make_hanging(str(tmp_path / "fifo"))
    with connect(scheduler, None, content(), timeout=3) as pool:
        assert pool.workers == 2

        def run():
            return pool.run(work, [None], on_done=lambda result: None, on_lost=lose)

        assert ["hung or died" in why for (why,) in together(run, run)] == [True, True]


def test_runs_on_a_pool_that_is_closed_end_and_lose_no_item(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    work, lost, found = make_hanging(str(tmp_path / "fifo")), [], []
    begun = threading.Barrier(3)

    def run(pool):
        begun.wait()
        try:
            pool.run(work, [None] * 6, on_done=lost.append, on_lost=lambda item, why: lost.append(why))
        except UnavailableError as error:
            found.append(error)

    with start_processes(2, tmp_path / "workers") as pool:
        threads = [threading.Thread(target=run, args=(pool,), daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        begun.wait()
        wait_for(lambda: sum(map(len, pool.client.processing().values())) >= 2)
    for thread in threads:
        thread.join(120)
    assert len(found) == 2
    assert lost == []
    with pytest.raises(UnavailableError):
        pool.run(work, [1], on_done=lost.append, on_lost=lose)
