# SPDX-License-Identifier: Apache-2.0
"""The thread pool of the disks: every job ends once, idle threads wake, and all of them end."""

from __future__ import annotations

import errno
import random
import threading
import time

from tests.unit.select_loop import SelectLoop
from vmmd.block.pool import THREADS_MAX, ThreadPool


def test_bursts_of_any_size_end_completely_and_in_bounds() -> None:
    loop, chance = SelectLoop(), random.Random(4)
    pool = ThreadPool(loop)
    results: list[int] = []
    asked = 0
    for _ in range(300):
        for _ in range(chance.choice((1, 1, 2, 7, 40))):
            asked += 1
            pool.submit(results.append, lambda number=asked: number)
        if chance.random() < 0.3:
            time.sleep(0.001)  # the threads go idle
        deadline = time.monotonic() + 5
        while pool.in_flight and chance.random() < 0.8:
            loop.round(0.01)
            assert time.monotonic() < deadline
    pool.close()
    assert sorted(results) == list(range(1, asked + 1))
    assert pool.in_flight == 0


def test_one_job_at_a_time_keeps_one_thread_busy() -> None:
    loop = SelectLoop()
    pool = ThreadPool(loop)
    threads: list[int] = []
    for _ in range(50):
        pool.submit(lambda result: None, lambda: threads.append(threading.get_ident()))
        while pool.in_flight:
            loop.round(1)
    assert len(set(threads)) == 1
    pool.close()


def test_errors_come_as_negative_numbers_and_threads_survive_them() -> None:
    loop = SelectLoop()
    pool = ThreadPool(loop)

    def fail() -> int:
        raise OSError(errno.ENOSPC, "full")

    results: list[int] = []
    for _ in range(3 * THREADS_MAX):
        pool.submit(results.append, fail)
    pool.drain()
    assert results == [-errno.ENOSPC] * (3 * THREADS_MAX)
    before = threading.active_count()
    pool.close()
    assert threading.active_count() == before - THREADS_MAX
    pool.close()
