# SPDX-License-Identifier: Apache-2.0
"""The vCPU's inner loop with a KVM_RUN that fails."""

from __future__ import annotations

import ctypes
import errno
import mmap
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tests.unit.fakes import RecordingRequests, make_context
from vmmd.kvm import runloop

if TYPE_CHECKING:
    import pytest


def make_vcpu() -> Any:
    """As much of a Vcpu as the loop needs: the run pages."""
    page = memoryview(mmap.mmap(-1, 3 * 4096))
    return SimpleNamespace(
        fd=-1, apic_id=0, bytes_=page, words=page.cast("H"), dwords=page.cast("I"), qwords=page.cast("Q"),
        vm=SimpleNamespace(coalesced_zones=[]),
    )  # fmt: skip


def test_kvm_run_that_keeps_failing_ends_the_run_and_stops_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, requests, holds, calls = make_context(), RecordingRequests(), [], []
    dispatch = runloop.Dispatch(
        machine.pio, machine.mmio, machine.lock, requests, lambda: holds.append(True), SimpleNamespace()
    )

    def failing_run(*_: object) -> int:
        calls.append(True)
        assert len(calls) < 10, "KVM_RUN is tried for ever"
        ctypes.set_errno(errno.EIO)
        return -1

    monkeypatch.setattr(runloop, "run_ioctl", failing_run)
    runloop.RunLoop(make_vcpu(), dispatch).run()
    assert len(calls) == len(holds) == 1
    assert [each[0] for each in requests.asked] == ["internal-error"]
