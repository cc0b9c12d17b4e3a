"""Threads, processes and clusters give the same bytes, and what dies costs no more than its tile."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import dask
import numpy as np
import psutil
import pytest
from distributed import Client
from pairs import copy_of_geosr, make_pair

from geosr.cluster import _make_shun, connect, start_processes
from geosr.device import device_kind
from geosr.errors import TileError, UnavailableError
from geosr.fitness import make_look
from geosr.methods.neighbourhood import kernels
from geosr.options import Execution

pytestmark = pytest.mark.chaos

SMALL = ["--preset", "paper-dem", "--set", "epochs=2", "--set", "channels=4", "--tile", "96"]
TILES = 9


def begin(folder, output, *more, group=False, **environment):
    pair = ["--source", "source.tif", "--guide", "guide.tif", "-o", output]
    return subprocess.Popen(
        [sys.executable, "-m", "geosr", "upscale", *pair, *SMALL, *more],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
        start_new_session=group,
    )


def finish(folder, output, *more, **environment):
    """Exit code and what was said."""
    run = begin(folder, output, *more, **environment)
    said = run.communicate(timeout=600)[1]
    return run.returncode, said


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pair, and what threads make of it."""
    folder = tmp_path_factory.mktemp("schedulers")
    make_pair(folder, size=44)
    assert finish(folder, "threads.tif")[0] == 0
    return folder


def same(folder, output):
    return (folder / output).read_bytes() == (folder / "threads.tif").read_bytes()


def tiles_of(folder, output):
    return [*folder.glob(f".{output}-*.geosr/tiles/*.tile")]


def wait_for(what):
    while not (found := what()):
        time.sleep(0.01)
    return found


def workers_of(run):
    """The processes that have loaded torch."""
    return [child for child in psutil.Process(run.pid).children() if is_worker(child)]


def is_worker(process):
    """Whether it makes tiles, and is not Python's resource tracker; what has ended is neither."""
    try:
        return "spawn_main" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # a zombie, too
        return False


# --- processes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_give_the_same_bytes(workers, folder):
    output = f"processes-{workers}.tif"
    assert finish(folder, output, "--scheduler", "processes", "--workers", str(workers))[0] == 0
    assert same(folder, output)
    assert not [*folder.glob(f".{output}*")]


def test_a_worker_that_is_killed_costs_nothing(folder):
    run = begin(folder, "wounded.tif", "--scheduler", "processes", "--workers", "2")
    wait_for(lambda: len(tiles_of(folder, "wounded.tif")) >= 2)
    workers_of(run)[0].kill()
    said = run.communicate(timeout=600)[1]
    assert run.returncode == 0, said
    assert "Traceback" not in said
    assert same(folder, "wounded.tif")


POISON = """
import os, sys
if "--multiprocessing-fork" in sys.orig_argv:
    import geosr.tile_work
    def deadly(method, plan, placement, stats, pair, tile, solve=geosr.tile_work.solve_tile):
        if tile.index == 3:
            os.kill(os.getpid(), 9)
        return solve(method, plan, placement, stats, pair, tile)
    geosr.tile_work.solve_tile = deadly
"""


def test_a_tile_that_kills_its_workers_is_named_and_the_others_are_kept(folder, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(POISON)
    options = ("--scheduler", "processes", "--workers", "2")
    code, said = finish(folder, "poison.tif", *options, PYTHONPATH=str(tmp_path))
    assert code == 5, said
    assert f"Error: 1 of {TILES} tiles failed; nothing was written\ntile 3 (row " in said
    assert "its worker process died, twice" in said
    assert len(tiles_of(folder, "poison.tif")) == TILES - 1
    assert "Traceback" not in said
    assert finish(folder, "poison.tif")[0] == 0  # threads go on where the processes were
    assert same(folder, "poison.tif")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_of_an_interrupted_run_but_its_folder(number, folder):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # not ignored, as in a job in the background
    output = f"ended-{number}.tif"
    run = begin(folder, output, "--scheduler", "processes", "--workers", "2", "--set", "epochs=8")
    signal.signal(signal.SIGINT, before)
    wait_for(lambda: tiles_of(folder, output))
    children = psutil.Process(run.pid).children(recursive=True)
    assert len(children) >= 2
    if number == signal.SIGINT:  # Ctrl-C goes to all processes of a terminal
        for child in workers_of(run):
            child.send_signal(number)
    run.send_signal(number)
    said = run.communicate(timeout=600)[1]
    assert psutil.wait_procs(children, timeout=600)[1] == []
    assert tiles_of(folder, output)
    assert not (folder / output).exists()
    if number != signal.SIGKILL:
        assert run.returncode == 130
        assert "Traceback" not in said
        assert said.splitlines()[-1].startswith("interrupted; finished tiles (")


def test_a_terminal_that_is_closed_ends_a_run_in_one_line(folder):
    output = "closed.tif"
    run = begin(folder, output, "--scheduler", "processes", "--workers", "2", "--set", "epochs=8", group=True)
    wait_for(lambda: tiles_of(folder, output))
    children = psutil.Process(run.pid).children(recursive=True)
    os.killpg(run.pid, signal.SIGHUP)
    said = run.communicate(timeout=600)[1]
    assert psutil.wait_procs(children, timeout=600)[1] == []
    assert run.returncode == 130
    assert "Traceback" not in said
    assert "resource_tracker" not in said
    assert said.splitlines()[-1].startswith("interrupted; finished tiles (")


def test_workers_that_do_not_start_end_the_run(folder, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif '--multiprocessing-fork' in sys.orig_argv:\n    os._exit(3)"
    )
    code, said = finish(folder, "stillborn.tif", "--scheduler", "processes", PYTHONPATH=str(tmp_path))
    assert code == 4, said
    assert said.splitlines()[-1] == "Error: worker processes did not start: Nanny failed to start"
    assert "Traceback" not in said
    assert not [*folder.glob(".stillborn.tif*")]


UNGUARDED = """
from pathlib import Path
from geosr.cluster import start_processes
from geosr.errors import UnavailableError
try:
    with start_processes(1, Path("processes")):
        pass
except UnavailableError as error:
    print(error)
"""


def test_a_script_that_starts_workers_where_they_import_it_is_told_how_not_to(tmp_path):
    (tmp_path / "script.py").write_text(UNGUARDED)
    command = [sys.executable, "script.py"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=True).stdout
    assert said.splitlines()[-1].endswith("to start; in a script, call geosr under if __name__ == '__main__'")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_was_stopped_while_it_started_does_not_survive_an_interruption(number, folder):
    run = begin(folder, "stopped.tif", "--scheduler", "processes", "--workers", "2")
    stopped, *_ = wait_for(lambda: workers_of(run))
    stopped.suspend()
    run.send_signal(number)
    said = run.communicate(timeout=600)[1]
    assert (run.returncode, said.strip()) == (130, "interrupted; nothing was written")
    assert psutil.wait_procs([stopped], timeout=30)[1] == []
    assert not [*folder.glob(".stopped.tif*")]


def test_a_worker_that_is_stopped_while_it_starts_ends_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr("geosr.cluster._STARTED", 3)
    before = {*psutil.Process().children(recursive=True)}
    stopped = []

    def stop():
        def young():
            children = {*psutil.Process().children()} - before
            return [child for child in children if is_worker(child)]

        stopped.append(wait_for(young)[0])
        stopped[0].suspend()

    stopper = threading.Thread(target=stop)
    stopper.start()
    with (
        pytest.raises(UnavailableError, match="worker processes did not start within 3 s"),
        start_processes(2, tmp_path),
    ):
        pass
    stopper.join()
    assert psutil.wait_procs(stopped, timeout=30)[1] == []
    left = {*psutil.Process().children()} - before
    assert not [child for child in left if is_worker(child)]


def deadly(item):
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if item == 5:
        raise TileError("five")
    if item == 6:
        raise TimeoutError("six")
    return item * item


def test_items_are_worked_on_and_lost_ones_told(tmp_path):
    told = []
    with start_processes(2, tmp_path / "workers") as pool:
        results = pool.run(deadly, [0, 1, 2, 3, 4], on_done=told.append, on_lost=lambda item, why: -item)
        assert results == [0, 1, 4, -3, 16]
        assert sorted(told) == [-3, 0, 1, 4, 16]
        settings = ["MALLOC_TRIM_THRESHOLD_", "OMP_NUM_THREADS"]  # with the first tiles take seven times as long
        assert pool.run(os.getenv, settings, on_done=told.append, on_lost=str) == [None, "1"]
        with pytest.raises(TileError, match="five"):
            pool.run(deadly, [4, 5], on_done=told.append, on_lost=lambda item, why: -item)
        with pytest.raises(TimeoutError, match="six"):
            pool.run(deadly, [6], on_done=told.append, on_lost=lambda item, why: -item)
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        listening = [c for process in processes for c in process.net_connections() if c.status == "LISTEN"]
        assert listening
        assert all(c.laddr.ip == "127.0.0.1" for c in listening)
        assert (tmp_path / "workers").stat().st_mode & 0o022 == 0


def make_reading(folder):
    """Travels as code: a worker of this test imports nothing but what it needs."""

    def read(item):
        import os
        import signal

        if item == "stops once" and not os.path.exists(once := f"{folder}/stopped"):
            with open(once, "w") as file:
                file.write(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGSTOP)
        if item == "endless":
            with open(f"{folder}/fifo") as file:  # nobody ever writes into it
                file.read()
        return item, os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES")

    return read


def test_a_worker_that_hangs_is_ended_and_its_item_tried_once_more(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    lost, ended = [], []

    def note(item, why):
        lost.append((item, why))
        return item, None, None

    with start_processes(2, tmp_path / "workers", timeout=4) as pool:

        def work(items):
            results = pool.run(
                make_reading(str(tmp_path)), items, on_done=lambda result: None, on_lost=note, tell=ended.append
            )
            assert [result[0] for result in results] == items

        work([0, 1, "stops once", 3, 4, 5])
        assert lost == []  # the second attempt went well
        assert len(ended) == 1
        assert ended[0].endswith("made no progress for 4 s and is ended")
        wait_for(lambda: not psutil.pid_exists(int((tmp_path / "stopped").read_text())))
        work(["endless", 7, 8])
        assert [item for item, _ in lost] == ["endless"]
        assert "hung or died, twice: no progress for 4 s; --tile-timeout gives it longer" in lost[0][1]
        assert len(ended) == 3


def test_the_time_is_that_of_the_command(folder):
    command = (
        "--scheduler",
        "processes",
        "--tile",
        "320",
        "--tile-timeout",
        "0.001",
    )  # even to load torch takes longer
    code, said = finish(folder, "hasty.tif", *command)
    assert code == 5, said
    assert "Traceback" not in said
    assert "made no progress for 0 s and is ended" in said
    assert "Error: 1 of 1 tiles failed; nothing was written\ntile 0 (row 0, column 0): its worker process hung" in said
    assert not [*folder.glob(".hasty.tif*")] or "are kept in" in said  # its worker had stored it, and not yet said so


def test_every_gpu_has_its_own_worker_also_after_its_death(tmp_path):
    with start_processes(2, tmp_path / "workers", gpus=("3", "GPU-5f")) as pool:
        look = make_reading("")

        def seen():
            found = pool.run(look, [*range(40)], on_done=lambda result: None, on_lost=lambda item, why: why)
            by_process = {pid: gpu for _, pid, gpu in found}
            return by_process if sorted(by_process.values()) == ["3", "GPU-5f"] else None

        before = wait_for(seen)
        os.kill(min(before), signal.SIGKILL)
        wait_for(lambda: not psutil.pid_exists(min(before)))
        assert set(wait_for(seen)) != set(before)


# --- an existing cluster -------------------------------------------------------------------------------------


def start(*arguments, cwd, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=cwd,
        env=os.environ | environment,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )


def free_port():
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return made.getsockname()[1]


def answers(port):
    with socket.socket() as made:
        return made.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def processes():
    """Ended at the end, whatever happens."""
    started = []
    yield started
    for process in started:
        process.kill()
        process.wait()


def start_scheduler(processes, folder, port, dashboard=("--no-dashboard",)):
    where = ("--host", "127.0.0.1", "--port", str(port), "--no-show", *dashboard)
    processes.append(start("distributed.cli.dask_scheduler", *where, cwd=folder))
    wait_for(lambda: answers(port))
    return f"tcp://127.0.0.1:{port}"


@pytest.fixture
def scheduler(processes, tmp_path):
    """The address of a scheduler without workers."""
    return start_scheduler(processes, tmp_path, free_port())


def add_worker(processes, scheduler, cwd, *more, **environment):
    options = ("--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1", *more)
    processes.append(start("distributed.cli.dask_worker", scheduler, *options, cwd=cwd, **environment))


def test_an_existing_cluster_gives_the_same_bytes(folder, scheduler, processes, tmp_path):
    add_worker(processes, scheduler, tmp_path)
    code, said = finish(folder, "cluster.tif", "--scheduler", scheduler)
    assert code == 0, said
    assert same(folder, "cluster.tif")


def test_the_dashboards_address_is_told_where_there_is_one(folder, processes, tmp_path):
    page = free_port()
    scheduler = start_scheduler(processes, tmp_path, free_port(), ("--dashboard-address", f"127.0.0.1:{page}"))
    add_worker(processes, scheduler, tmp_path)
    code, said = finish(folder, "told.tif", "--scheduler", scheduler)
    assert code == 0, said
    assert f"note: Dask's dashboard: http://127.0.0.1:{page}/status\n" in said


def test_a_scheduler_that_is_lost_leaves_a_run_to_go_on_with(folder, scheduler, processes, tmp_path):
    add_worker(processes, scheduler, tmp_path)
    run = begin(folder, "lost.tif", "--scheduler", scheduler)
    wait_for(lambda: tiles_of(folder, "lost.tif"))
    processes[0].kill()
    said = run.communicate(timeout=300)[1]
    assert run.returncode == 4, said
    assert "Traceback" not in said
    assert f"the Dask scheduler {scheduler} was lost" in said
    assert "run the same command again to continue" in said
    assert finish(folder, "lost.tif")[0] == 0
    assert same(folder, "lost.tif")


def content():
    """For workers that are as this process is."""
    return lambda: None


def make_slow(path):
    """Travels as code, as in `make_reading`: every item says in a file that it is in progress, and takes a while."""

    def work(item):
        import os
        import time

        with open(os.path.join(path, f"begun-{item}"), "w") as file:
            file.write(str(os.getpid()))
        time.sleep(0.2)
        return item

    return work


def lose(item, why):
    return why


def test_a_worker_of_a_cluster_that_is_stopped_is_replaced(scheduler, processes, tmp_path):
    add_worker(processes, scheduler, tmp_path)
    stopped, ended = [], []

    def stop(result):
        if not stopped:
            stopped.append(int((tmp_path / f"begun-{result}").read_text()))
            os.kill(stopped[0], signal.SIGSTOP)  # in the middle of an item, or with a result that was not fetched

    with connect(scheduler, None, content(), timeout=3) as pool:
        work = make_slow(str(tmp_path))
        assert pool.run(work, [*range(6)], on_done=stop, on_lost=lose, tell=ended.append) == [*range(6)]
    assert len(ended) == 1
    assert "made no progress for 3 s and is ended" in ended[0]
    wait_for(lambda: not psutil.pid_exists(stopped[0]))


def make_telling():
    """Travels as code, as in `make_reading`: an item takes a while, and its result is its worker's process."""

    def work(item):
        import os
        import time

        time.sleep(0.2)
        return os.getpid()

    return work


def test_a_worker_that_joins_later_gets_items_only_if_it_is_fit(scheduler, processes, tmp_path):
    (tmp_path / "source.tif").write_text("raster")
    told = []

    def there(workers):
        wait_for(lambda: len(pool.client.nthreads()) == workers)

    def help_out(result):
        if told and len(processes) == 3:
            add_worker(processes, scheduler, tmp_path, "--no-nanny")
            there(3)

    add_worker(processes, scheduler, tmp_path, "--no-nanny")
    look = make_look({tmp_path / "source.tif": 6}, tmp_path, "cpu", "bicubic")
    with connect(scheduler, None, look) as pool:
        add_worker(processes, scheduler, tmp_path, "--no-nanny", **another_version(tmp_path / "site"))
        there(2)
        found = pool.run(make_telling(), [*range(12)], on_done=help_out, on_lost=lose, tell=told.append)
        assert len(told) == 1
        assert told[0].endswith("has geosr 0.0.1, this is 0.1.0; install the same version there; it gets no tiles")
        assert {*found} == {processes[1].pid, processes[3].pid}
        assert sorted(statuses(scheduler)) == ["paused", "running", "running"]
    assert statuses(scheduler) == ["running"] * 3  # for others it may be fit


def statuses(scheduler):
    with Client(scheduler, set_as_default=False) as client:
        return client.run_on_scheduler(lambda dask_scheduler: [w.status.name for w in dask_scheduler.workers.values()])


def test_a_worker_that_a_killed_run_had_shunned_is_used_again(scheduler, processes, tmp_path):
    add_worker(processes, scheduler, tmp_path, "--no-nanny")
    wait_for(lambda: statuses(scheduler))
    with Client(scheduler, set_as_default=False) as client:
        client.run_on_scheduler(_make_shun(*client.nthreads()))
    with connect(scheduler, None, content()) as pool:
        assert pool.run(make_telling(), [1], on_done=lambda result: None, on_lost=lose) == [processes[1].pid]


def make_meeting(path, size):
    """Travels as code: an item ends when so many are in progress at once."""

    def work(item):
        import os
        import time

        open(os.path.join(path, f"here-{item}"), "w").close()
        stop = time.monotonic() + 60
        while len([name for name in os.listdir(path) if name.startswith("here-")]) < size:
            if time.monotonic() > stop:
                return "alone"
            time.sleep(0.01)
        return "met"

    return work


def test_all_workers_that_join_later_are_used(scheduler, processes, tmp_path):
    add_worker(processes, scheduler, tmp_path, "--no-nanny")
    with connect(scheduler, None, content()) as pool:
        add_worker(processes, scheduler, tmp_path, "--no-nanny", "--nthreads", "4")
        work = make_meeting(str(tmp_path), 4)
        assert pool.run(work, [*range(8)], on_done=lambda result: None, on_lost=lose) == ["met"] * 8


def test_where_only_unfit_workers_are_left_the_run_ends(scheduler, processes, tmp_path):
    add_worker(processes, scheduler, tmp_path, "--no-nanny")
    with connect(scheduler, None, make_look({}, tmp_path, "cpu", "bicubic"), timeout=3) as pool:
        add_worker(processes, scheduler, tmp_path, "--no-nanny", **another_version(tmp_path / "site"))
        wait_for(lambda: len(pool.client.nthreads()) == 2)
        processes[1].kill()
        with pytest.raises(UnavailableError, match=f"{scheduler} has had no fit workers for 10 s; start some, or wait"):
            pool.run(make_telling(), [1, 2, 3], on_done=lambda result: None, on_lost=lose)


def test_what_nobody_sees_any_more_is_no_workers_fault(scheduler, processes, tmp_path):
    (tmp_path / "source.tif").write_text("raster")
    told = []
    add_worker(processes, scheduler, tmp_path, "--no-nanny")
    with connect(scheduler, None, make_look({tmp_path / "source.tif": 6}, tmp_path, "cpu", "bicubic")) as pool:
        (tmp_path / "source.tif").unlink()
        found = pool.run(make_telling(), [1], on_done=lambda result: None, on_lost=lose, tell=told.append)
    assert (found, told) == ([processes[1].pid], [])  # a tile says itself that its source is gone


def test_a_cluster_whose_workers_are_all_gone_ends_the_run(scheduler, processes, tmp_path):
    add_worker(processes, scheduler, tmp_path, "--no-nanny")

    def kill(result):
        processes[-1].kill()

    with (
        connect(scheduler, None, content(), timeout=3) as pool,
        pytest.raises(UnavailableError, match=f"{scheduler} has had no workers for 10 s; start some, or wait"),
    ):
        pool.run(make_slow(str(tmp_path)), [*range(50)], on_done=kill, on_lost=lose)


def test_a_scheduler_that_starts_anew_ends_the_run(scheduler, processes, tmp_path):
    add_worker(processes, scheduler, tmp_path)

    def restart(result):
        processes[0].kill()
        processes[0].wait()
        start_scheduler(processes, tmp_path, int(scheduler.rpartition(":")[2]))

    with (
        connect(scheduler, None, content()) as pool,
        pytest.raises(UnavailableError, match=f"{scheduler} was lost"),
    ):
        pool.run(make_slow(str(tmp_path)), [*range(50)], on_done=restart, on_lost=lose)


def test_a_scheduler_that_does_not_answer_ends_the_run(scheduler, processes, tmp_path, monkeypatch):
    add_worker(processes, scheduler, tmp_path)
    monkeypatch.setattr("geosr.cluster._ANSWER", 2)

    def stop(result):
        processes[0].send_signal(signal.SIGSTOP)

    with (
        connect(scheduler, None, content()) as pool,
        pytest.raises(UnavailableError, match=f"{scheduler} was lost: it does not answer"),
    ):
        pool.run(make_slow(str(tmp_path)), [*range(50)], on_done=stop, on_lost=lose)


def test_a_worker_that_is_stopped_from_the_first_is_found_out(scheduler, processes, tmp_path, monkeypatch):
    add_worker(processes, scheduler, tmp_path)
    with connect(scheduler, None, content()):
        pass
    worker = wait_for(lambda: workers_of(processes[-1]))[0]
    worker.suspend()
    monkeypatch.setattr("geosr.cluster._STARTED", 2)
    try:
        with (
            pytest.raises(UnavailableError, match="a worker does not answer within 2 s"),
            connect(scheduler, None, content()),
        ):
            pytest.fail("nothing can be worked on here")
    finally:
        worker.kill()  # its nanny's end would not reach it


def first_in_path(folder):
    """Environment of a process that finds its modules there first."""
    return {"PYTHONPATH": f"{folder}{os.pathsep}{os.getenv('PYTHONPATH', '')}"}


def another_version(folder):
    """Environment of a worker that has an older geosr."""
    (folder / "geosr").mkdir(parents=True)
    (folder / "geosr" / "__init__.py").touch()
    (folder / "geosr" / "version.py").write_text('__version__ = "0.0.1"')
    return first_in_path(folder)


def without(package, folder):
    """Environment of a worker where a package is not installed."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(MISSING.format(package))
    return first_in_path(folder)


MISSING = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {0!r}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)
sys.meta_path.insert(0, Missing())
"""
MISSED = "lacks what a tile needs: No module named {!r}; install there what is installed here"


@pytest.mark.parametrize(
    ("package", "problem"),
    [
        ("geosr", "has no geosr; install 0.1.0 there"),
        ("torch", MISSED.format("torch")),
        ("rasterio", MISSED.format("rasterio")),
    ],
)
def test_a_worker_that_lacks_a_package_is_refused(package, problem, folder, scheduler, processes, tmp_path):
    add_worker(processes, scheduler, tmp_path, "--no-nanny", **without(package, tmp_path / "site"))
    code, said = finish(folder, "lacking.tif", "--scheduler", scheduler)
    assert code == 4, said
    assert said.startswith("Error: the worker tcp://127.0.0.1:")
    assert problem in said
    assert "Traceback" not in said
    assert not [*folder.glob(".lacking.tif*")]


def test_a_worker_with_another_version_is_refused(folder, scheduler, processes, tmp_path):
    add_worker(processes, scheduler, tmp_path, **another_version(tmp_path / "site"))
    code, said = finish(folder, "old.tif", "--scheduler", scheduler)
    assert code == 4, said
    assert "has geosr 0.0.1, this is 0.1.0; install the same version there" in said
    assert not [*folder.glob(".old.tif*")]


OTHER = {
    "another commit": "has geosr's code ",
    "another numpy": f"has numpy 1.25.0, this process {np.__version__}: its tiles would differ",
    "no kernels": "has kernels torch, this process compiled for ",
    "another processor": "has device cpu DEFAULT, this process cpu ",
    "another plug-in": "has method's package mine 0.9, this process mine 1.0",
}
PLUGIN = {
    "mine.dist-info/METADATA": "Metadata-Version: 2.1\nName: mine\nVersion: {}\n",
    "mine.dist-info/entry_points.txt": "[geosr.methods]\nmine = mine:ENTRY\n",
    "mine.py": "from geosr.methods import Entry\n"
    'ENTRY = Entry("mine", "mine:create", "s", source="s", use="u", cost="instant")\n',
}


def install_plugin(folder, version):
    (folder / "mine.dist-info").mkdir(parents=True)
    for name, text in PLUGIN.items():
        (folder / name).write_text(text.format(version))


def environment_of(what, folder):
    """Environment of a worker whose tiles would differ, or that could make none."""
    if what == "another processor":
        return {"ATEN_CPU_CAPABILITY": "default"}
    if what == "another numpy":
        folder.mkdir()
        (folder / "sitecustomize.py").write_text("import numpy\nnumpy.__version__ = '1.25.0'")
    if what == "another commit":
        copy_of_geosr(folder, change="# another commit\n")
    if what == "no kernels":
        copy_of_geosr(folder, kernels=False)
    if what == "another plug-in":
        install_plugin(folder, "0.9")
    return first_in_path(folder)


@pytest.mark.parametrize("what", OTHER)
def test_a_worker_whose_tiles_would_differ_is_refused(what, scheduler, processes, tmp_path, monkeypatch):
    if what == "no kernels" and kernels("cpu") == "torch":
        pytest.skip("the kernels were not built: no C compiler at installation")
    if what == "another processor" and not device_kind("cpu").startswith("cpu AVX"):
        pytest.skip("torch uses this processor as any other")
    add_worker(processes, scheduler, tmp_path, "--no-nanny", **environment_of(what, tmp_path / "site"))
    install_plugin(tmp_path / "plugin", "1.0")
    monkeypatch.syspath_prepend(tmp_path / "plugin")
    look = make_look({}, tmp_path, "cpu", "mine" if what == "another plug-in" else "diffusion")
    with pytest.raises(UnavailableError) as refused, connect(scheduler, None, look):
        pytest.fail("nothing may be worked on here")
    assert OTHER[what] in str(refused.value)


def test_pools_that_overlap_leave_settings_as_they_were(tmp_path):
    """The first that was opened is closed first: what it changed stays as long as the other needs it, and no longer."""

    def state():
        level = logging.getLogger("distributed.scheduler").level
        return dask.config.get("distributed.scheduler.allowed-failures"), level

    before = state()
    first = start_processes(1, tmp_path / "a")
    second = start_processes(1, tmp_path / "b")
    first.__enter__()
    within = state()
    second.__enter__()
    first.__exit__(None, None, None)
    assert state() == within != before
    second.__exit__(None, None, None)
    assert state() == before


def test_no_scheduler_and_no_workers(folder, scheduler):
    code, said = finish(folder, "none.tif", "--scheduler", scheduler)
    assert code == 4
    assert f"the Dask scheduler {scheduler} has no workers" in said
    nobody = f"tcp://127.0.0.1:{free_port()}"
    code, said = finish(folder, "none.tif", "--scheduler", nobody)
    assert code == 4
    assert f"no Dask scheduler answers at {nobody}" in said
    assert "Traceback" not in said


def test_a_worker_that_does_not_see_the_files_is_found_out(folder, tmp_path):
    size = (folder / "source.tif").stat().st_size
    source = folder / "source.tif"

    def look(files, place=tmp_path):
        return make_look(files, place, "cpu", "diffusion")()

    assert look({source: size}) is None
    assert f"does not see the same {source}" in look({source: size + 1})
    assert "does not see the same /not/here.tif" in look({Path("/not/here.tif"): 1})
    assert "cannot write in" in look({}, tmp_path / "missing")


@pytest.mark.parametrize("name", ["", "thread", "http://a:1", "dask"])
def test_unknown_schedulers_are_refused(name):
    with pytest.raises(ValueError, match="use threads, processes or tcp://HOST:PORT"):
        Execution(scheduler=name)
