# SPDX-License-Identifier: Apache-2.0
"""What decides the load test of the monitor: exits that are later with clients are found, bursts of other work not."""

from __future__ import annotations

import random

from tests.framework.monitor_load import Gaps, LoadRun, lateness_z, quantile

LIMIT = 2.58


def run_of(elsewhere_s: list[float], here_s: list[float]) -> LoadRun:
    return LoadRun(elsewhere=[Gaps(late_s=each) for each in elsewhere_s], loaded=[Gaps(late_s=each) for each in here_s])


def bursts(dice: random.Random) -> list[float]:
    """Nothing most of the time, then very much."""
    return [dice.choice((0.0, 0.001, 0.003, 0.2, 1.5)) for _slice in range(24)]


def test_exits_that_are_a_little_later_each_time_are_found_under_the_noise_of_the_host() -> None:
    dice = random.Random(5)
    quiet = bursts(dice)
    assert lateness_z([run_of(quiet, [each + 0.004 for each in quiet])]) > LIMIT


def test_bursts_that_do_not_care_who_is_served_are_not() -> None:
    dice = random.Random(5)
    found = [lateness_z([run_of(bursts(dice), bursts(dice))]) for _run in range(1000)]
    assert 0 < sum(each > LIMIT for each in found) < 20  # 5 are expected
    assert lateness_z([run_of([0.0] * 8, [0.0] * 7 + [9.0])]) < LIMIT


def test_no_late_exit_at_all() -> None:
    assert lateness_z([run_of([0.0], [0.0])]) == 0.0


def test_quantile_and_sum() -> None:
    assert [quantile([3.0, 1.0, 2.0], each) for each in (0.0, 0.5, 1.0)] == [1.0, 2.0, 3.0]
    assert Gaps(1, 0.5, 0.1, (4, 3, 2, 1)) + Gaps(2, 0.4, 0.2, (1, 1, 1, 1)) == Gaps(3, 0.5, 0.1 + 0.2, (5, 4, 3, 2))
