# SPDX-License-Identifier: Apache-2.0
"""Short scheduler slices: for the thread that asks, and not for those it makes."""

from __future__ import annotations

import os
import platform
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vmmd.core.scheduling import ask_for_short_slices

if TYPE_CHECKING:
    from collections.abc import Callable

SLICE_NS = 300_000


def slice_ns() -> int:
    text = Path(f"/proc/self/task/{threading.get_native_id()}/sched").read_text(encoding="ascii")
    found = re.search(r"^se\.slice\s*:\s*(\d+)", text, re.MULTILINE)
    return int(found[1]) if found else 0


def on_thread(function: Callable[[], None]) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:  # handed to the test
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    assert not failures, failures


def test_class_and_nice_value_stay() -> None:
    def check() -> None:
        nice = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        assert ask_for_short_slices(SLICE_NS)
        assert os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_OTHER
        assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == nice

    on_thread(check)


@pytest.mark.skipif(
    tuple(map(int, platform.release().split(".")[:2])) < (6, 12) or not Path("/proc/self/sched").exists(),
    reason="slices of a thread's own came with Linux 6.12; /proc shows them with CONFIG_SCHED_DEBUG",
)
def test_slice_is_the_threads_own() -> None:
    def check() -> None:
        before = slice_ns()
        assert ask_for_short_slices(SLICE_NS)
        assert slice_ns() == SLICE_NS
        inherited: list[int] = []
        child = threading.Thread(target=lambda: inherited.append(slice_ns()))
        child.start()
        child.join(10)
        assert inherited == [before]

    on_thread(check)
