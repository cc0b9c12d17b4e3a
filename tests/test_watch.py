"""When a worker counts as hung: never for being slow as before, always for doing nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geosr.watch import FIRST, LEAST, Watch

SECOND = 1.0


def run(watch, seconds, work, start=0.0):
    """Looks once a second at work that does not change; the time at which a worker was first named, or None."""
    for tick in range(int(seconds) + 1):
        if watch.look(work, start + tick * SECOND):
            return tick * SECOND
    return None


def test_a_given_time_is_kept():
    assert run(Watch(30), 100, {"a": ["x"], "b": []}) == 31
    watch = Watch(30)
    assert run(watch, 20, {"a": ["x"]}) is None
    assert watch.look({"a": ["y"]}, 20.5) == []  # x is done: the clock starts again
    assert run(watch, 100, {"a": ["y"]}, 20.5) == 31


def test_without_a_time_it_follows_the_slowest_and_is_never_short():
    assert Watch(None).limit == FIRST
    watch = Watch(None)
    run(watch, 200, {"a": ["x"]})
    watch.look({"a": ["y"]}, 201)
    assert watch.limit == pytest.approx(2010, abs=20)
    quick = Watch(None)
    run(quick, 3, {"a": ["x"]})
    quick.look({"a": ["y"]}, 4)
    assert quick.limit == LEAST


@given(
    st.lists(st.floats(1, 900), min_size=1, max_size=40),
    st.lists(st.sampled_from(["a", "b", "c"]), min_size=40, max_size=40),
)
def test_tiles_no_more_than_ten_times_as_slow_as_the_slowest_so_far_are_left_alone(gaps, workers):
    watch, now, longest = Watch(None), 0.0, 0.0
    work = {name: [f"{name}0"] for name in "abc"}
    watch.look(work, now)
    since = dict.fromkeys("abc", 0.0)
    for count, (gap, name) in enumerate(zip(gaps, workers, strict=False), 1):
        if longest and max(now + gap - start for start in since.values()) > max(LEAST, 9 * longest):
            continue
        for _ in range(int(gap) + 1):
            now += gap / (int(gap) + 1)
            assert watch.look(work, now) == []
        longest, since[name] = max(longest, now - since[name]), now
        work = work | {name: [f"{name}{count}"]}
        assert watch.look(work, now) == []


def test_a_worker_with_several_threads_is_hung_only_when_none_gets_on():
    watch = Watch(30)
    for tick in range(100):
        assert watch.look({"a": ["hung", f"busy{tick // 20}"]}, tick) == []
    assert run(watch, 100, {"a": ["hung"]}, 100) is not None


def test_the_runs_own_pause_is_not_the_workers():
    watch = Watch(30)
    run(watch, 10, {"a": ["x"]})
    assert watch.look({"a": ["x"]}, 10_000) == []  # Ctrl-Z, and fg much later
    assert not watch.alone
    assert run(watch, 100, {"a": ["x"]}, 10_000) is not None


def test_work_that_waits_does_not_count_against_an_idle_or_new_worker():
    watch = Watch(30)
    assert run(watch, 100, {"a": [], "b": []}) is None
    assert watch.look({"a": ["x"], "b": []}, 101) == []
    assert watch.look({"b": ["x"]}, 131) == []  # the worker is gone, its work begins anew elsewhere
    assert watch.limit == 30


def test_a_worker_that_vanished_says_nothing_of_how_long_work_takes():
    watch = Watch(None)
    run(watch, 500, {"a": ["x"]})
    watch.look({}, 501)
    assert watch.limit == FIRST


def test_alone_after_the_same_time():
    watch = Watch(30)
    assert run(watch, 100, {"a": []}) is None
    for tick in range(101, 131):
        watch.look({}, tick)
        assert not watch.alone
    watch.look({}, 131)
    assert watch.alone
    watch.look({"b": []}, 132)
    assert not watch.alone
