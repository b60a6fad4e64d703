# SPDX-License-Identifier: Apache-2.0
"""How often vCPUs leave the guest, and how fast: counts of the run loops, and rates over a window.

The run loops count anyway; nothing is added there, and nothing runs while nobody asks. Every report remembers the
counts it saw; the next one's rates are over the time since the newest report that is at least a second old, or since
the vCPUs were made.
"""

from __future__ import annotations

from time import monotonic_ns
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: the shortest window, unless there is none that long yet
WINDOW_MIN_NS = 1_000_000_000
#: reports that come closer together than this share a remembered sample
_SPACING_NS = 500_000_000
_SAMPLES_MAX = 4


class ExitReport(NamedTuple):
    """Exits by reason number, per vCPU."""

    uptime_ns: int  # since the vCPUs were made
    window_ns: int
    counts: tuple[tuple[int, ...], ...]
    before: tuple[tuple[int, ...], ...]  # as they were when the window began

    def recent(self, index: int) -> list[int]:
        """What happened to a vCPU within the window."""
        return [new - old for new, old in zip(self.counts[index], self.before[index], strict=True)]


class ExitMeter:
    """Reads ``exit_counts`` of run loops. Loop thread."""

    def __init__(self, counters: Sequence[Sequence[int]], now_ns: Callable[[], int] = monotonic_ns) -> None:
        """``counters``: one per vCPU, written by its thread only."""
        self._counters = counters
        self._now_ns = now_ns
        self._start_ns = now_ns()
        self._samples = [(self._start_ns, tuple(tuple(each) for each in counters))]  # oldest first

    def report(self) -> ExitReport:
        """The counts now, and what happened in the window."""
        now_ns = self._now_ns()
        counts = tuple(tuple(each) for each in self._counters)
        samples = self._samples
        base_ns, before = next((each for each in reversed(samples) if now_ns - each[0] >= WINDOW_MIN_NS), samples[0])
        if now_ns - samples[-1][0] >= _SPACING_NS:
            samples.append((now_ns, counts))
            del samples[:-_SAMPLES_MAX]
        return ExitReport(now_ns - self._start_ns, now_ns - base_ns, counts, before)
