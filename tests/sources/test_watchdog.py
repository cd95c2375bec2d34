"""One thread ends what takes too long."""

import threading
import time

from preheat.sources.watchdog import Watchdog


def test_what_is_done_in_time_is_left_alone_and_shares_one_thread() -> None:
    watchdog, ended = Watchdog(), threading.Event()
    before = threading.active_count()
    for _ in range(100):
        with watchdog.limit(60, ended.set), watchdog.limit(30, ended.set):
            assert threading.active_count() <= before + 1
    assert not ended.is_set()


def test_what_takes_too_long_is_ended_also_behind_a_longer_wait() -> None:
    watchdog, first, second = Watchdog(), threading.Event(), threading.Event()
    with watchdog.limit(60, first.set), watchdog.limit(0.01, second.set):
        assert second.wait(10)
    with watchdog.limit(0, second.clear):
        deadline = time.monotonic() + 60
        while second.is_set() and time.monotonic() < deadline:
            threading.Event().wait(0.001)
    assert not first.is_set()
    assert not second.is_set()


def test_several_that_are_late_at_once_are_all_ended() -> None:
    watchdog, ended = Watchdog(), [threading.Event() for _ in range(5)]
    started = [threading.Thread(target=_wait, args=(watchdog, event)) for event in ended]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join(10)
    assert all(event.is_set() for event in ended)


def _wait(watchdog: Watchdog, event: threading.Event) -> None:
    with watchdog.limit(0.02, event.set):
        event.wait(10)
