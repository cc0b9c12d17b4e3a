"""Items run once each, several at a time, and the first error ends the run."""

import sys
import threading
import time

import pytest

from geosr.errors import TileError
from geosr.runner import Threads


def run(function, items, *, workers, **options):
    return Threads(workers).run(function, items, **options)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_every_item_once_and_results_in_order(workers):
    told = []
    assert run(lambda item: item * item, range(7), workers=workers, on_done=told.append) == [0, 1, 4, 9, 16, 25, 36]
    assert sorted(told) == [0, 1, 4, 9, 16, 25, 36]


def test_items_overlap_in_time():
    both = threading.Barrier(2, timeout=600)
    assert sorted(run(lambda item: both.wait(), range(2), workers=2)) == [0, 1]


def test_runs_beside_each_other_hear_of_their_own_items_only():
    def outer(number):
        told = []
        for turn in range(60):
            run(lambda item: item, [(number, turn)], workers=1, on_done=told.append)
        return told

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads get in each other's way as often as can be
    try:
        assert run(outer, range(8), workers=8) == [[(number, turn) for turn in range(60)] for number in range(8)]
    finally:
        sys.setswitchinterval(before)


def test_no_more_than_the_workers_are_started():
    busy, most, lock = 0, 0, threading.Lock()

    def work(item):
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        time.sleep(0.005)
        with lock:
            busy -= 1

    run(work, range(30), workers=3)
    assert most == 3


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("error", [TileError, ZeroDivisionError, KeyboardInterrupt])
def test_the_first_error_ends_the_run_as_it_is(workers, error):
    started, failing, ended = [], threading.Event(), threading.Event()

    def work(item):
        started.append(item)
        if item % 5 == 3:
            failing.set()
            raise error("three")
        if failing.is_set():
            ended.wait(60)

    with pytest.raises(error, match="three"):
        run(work, range(50), workers=workers)
    ended.set()
    all_free = threading.Barrier(workers, timeout=600)  # the same threads, when they have done what they were given
    run(lambda item: all_free.wait(), range(workers), workers=workers)
    assert any(item % 5 == 3 for item in started)
    assert len(started) < 10


def test_an_interruption_does_not_wait_for_what_is_in_work():
    release, done = threading.Event(), []

    def work(item):
        if item == 1:
            raise TileError("one")
        release.wait(60)
        done.append(item)

    with pytest.raises(TileError):
        run(work, range(2), workers=2)
    assert done == []
    release.set()


def test_items_that_look_like_keys_are_items():
    assert run(lambda item: item, ["item-1", "item-0", ("item-1",)], workers=2) == [
        "item-1",
        "item-0",
        ("item-1",),
    ]


def test_few_items_are_on_their_way_at_once():
    """However many there are: what is not begun costs no more than its place in the list."""
    asked = []

    class Items:
        def __len__(self):
            return 5000

        def __getitem__(self, place):
            asked.append(place)
            return range(5000)[place]

    done = []

    def ahead(result):
        done.append(result)
        assert sum(len(range(5000)[place]) for place in asked) - len(done) < 1100

    assert run(lambda item: item, Items(), workers=2, on_done=ahead) == [*range(5000)]
