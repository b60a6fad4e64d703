# SPDX-License-Identifier: Apache-2.0
"""The inner loop of a vCPU with its local APIC in the kernel and the other controllers outside
(``kernel_irqchip=split``).

Besides what ``RunLoop`` does: the end of a level-triggered interrupt goes to the I/O APIC, and the boot CPU takes the
8259 pair's interrupts, which go in by KVM_INTERRUPT when its APIC and its flags let them.
"""

from __future__ import annotations

import ctypes
import errno
import threading
from typing import TYPE_CHECKING, Protocol

from vmmd.kvm import abi
from vmmd.kvm.ioctl import run_ioctl
from vmmd.kvm.runloop import RunLoop

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.kvm.runloop import Dispatch
    from vmmd.kvm.vcpu import Vcpu

_WINDOW = abi.RUN_OFFSETS["RUN_REQUEST_INTERRUPT_WINDOW"][1]
_READY = abi.RUN_OFFSETS["RUN_READY_FOR_INTERRUPT"][1]
_REASON = abi.RUN_OFFSETS["RUN_EXIT_REASON"][1] // 4
_EOI_VECTOR = abi.RUN_OFFSETS["RUN_EOI_VECTOR"][1]


class OuterChips(Protocol):
    """The controllers outside. DeviceLock held."""

    def acknowledge(self) -> int:
        """The vector of the 8259 pair."""

    def end_of_interrupt(self, vector: int) -> None:
        """A level-triggered interrupt has ended."""


class SplitLoop(RunLoop):
    """Runs one vCPU. ``kick`` gets its thread out of the guest; not called by that thread."""

    def __init__(self, vcpu: Vcpu, dispatch: Dispatch, chips: OuterChips, kick: Callable[[], None]) -> None:
        super().__init__(vcpu, dispatch)
        self._kick = kick
        self._chips = chips
        self._intr = 0
        self._thread = 0
        table = list(self._plain_table)
        table[abi.KVM_EXIT_IOAPIC_EOI] = self._end_of_interrupt
        self._plain_table = self._table = tuple(table)

    def set_intr(self, level: int) -> None:
        """The 8259 pair's INT pin changed. Any thread, DeviceLock held."""
        self._intr = level
        if level and threading.get_ident() != self._thread:
            self._kick()

    def reset(self) -> None:
        flags = self.vcpu.bytes_
        flags[_READY] = flags[_WINDOW] = 0

    def run(self) -> None:
        """As ``RunLoop.run``. ORDERING: INT is looked at after each exit and before the first entry; one that comes
        later has set ``immediate_exit``."""
        self._thread = threading.get_ident()
        ioctl, fd, kvm_run = run_ioctl, self.vcpu.fd, abi.KVM_RUN
        dwords, counts, table = self.vcpu.dwords, self.exit_counts, self._table
        while True:
            try:
                if self._intr:
                    self._inject()
                while not ioctl(fd, kvm_run, 0):
                    reason = dwords[_REASON]
                    counts[reason] += 1
                    table[reason]()
                    if self._intr:
                        self._inject()
            except Exception:  # as in RunLoop; it may be before KVM_RUN that it went wrong
                self._handler_failed()
                return
            error = ctypes.get_errno()
            if error == errno.EINTR:
                return
            if error != errno.EAGAIN:
                self._run_failed(error)
                return

    def _inject(self) -> None:
        """Give KVM the 8259 pair's interrupt, or have it say when it can be taken."""
        flags = self.vcpu.bytes_
        if flags[_READY]:
            with self.dispatch.lock:
                vector = self._chips.acknowledge() if self._intr else None
            if vector is not None:
                self.vcpu.interrupt(vector)
                flags[_READY] = 0
        flags[_WINDOW] = self._intr

    def _end_of_interrupt(self) -> None:
        with self.dispatch.lock:
            self._chips.end_of_interrupt(self.vcpu.bytes_[_EOI_VECTOR])
