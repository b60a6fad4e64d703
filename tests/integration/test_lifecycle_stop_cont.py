# SPDX-License-Identifier: Apache-2.0
"""300 pairs of `stop` and `cont` under disk I/O; scripts/acceptance-stop-cont does 10,000."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.framework.stop_cont import DISKS, stop_and_cont
from tests.framework.vm import emulator

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.kvm


@pytest.mark.parametrize(("disk", "mode"), [*((disk, "r") for disk in DISKS), ("threads", "w"), ("io_uring", "w")])
def test_no_request_and_no_event_is_lost(tmp_path: Path, disk: str, mode: str) -> None:
    run = stop_and_cont(emulator("vmmd"), disk, tmp_path, pairs=300, guest_s=4.0, mode=mode)
    assert run.faults == []
    assert run.requests > 1000
    assert run.quantile(0.5) < 0.02  # the tail is for the acceptance script: other tests run on this machine
