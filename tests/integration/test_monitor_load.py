# SPDX-License-Identifier: Apache-2.0
"""A short run of the monitor load test; figures come from ``scripts/acceptance-monitor-load``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.framework.monitor_load import monitor_load, quantile
from tests.framework.vm import emulator

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.kvm

#: far above what is measured, below what a client would call hanging: other tests share the processors
P99_S = 0.1
GROWTH_BYTES = 16 << 20


def test_bad_clients_delay_nobody(tmp_path: Path) -> None:
    run = monitor_load(emulator("vmmd"), tmp_path, slices=2)
    assert run.faults == []
    for latencies in (run.latency_s, run.stopped_s):
        assert len(latencies) > 200
        assert quantile(latencies, 0.99) < P99_S
    assert run.growth_bytes < GROWTH_BYTES
    assert all(each.writes > 1000 for each in (*run.quiet, *run.loaded))
