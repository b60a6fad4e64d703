# SPDX-License-Identifier: Apache-2.0
"""The inner loop of a vCPU whose interrupt controllers are not in the kernel (``kernel_irqchip=off``).

Besides what ``RunLoop`` does: the page of the vCPU's local APIC is answered here; interrupts go in by KVM_INTERRUPT
when the guest can take one, which KVM tells by an exit if asked to (request_interrupt_window); HLT, and a CPU that
waits for its start-up IPI, sleep here; INIT and start-up IPIs set registers; TPR goes to and fro by ``cr8``.

Who has something new for the vCPU calls ``wake``: any thread. ``attention`` is looked at after every exit and before
every entry; ``wake`` kicks the thread out of the guest or out of its sleep, so that none is lost:

    wake: attention, then immediate_exit, then the gate          vCPU: clear attention, look, then enter or sleep

INIT and start-up IPIs wait until KVM has completed a half-done access: ``run`` is left for that, and entered again.
"""

from __future__ import annotations

import ctypes
import errno
import threading
from typing import TYPE_CHECKING, Protocol

from vmmd.kvm import abi, cpustate
from vmmd.kvm.ioctl import run_ioctl
from vmmd.kvm.runloop import RunLoop

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.kvm.runloop import Dispatch
    from vmmd.kvm.vcpu import Vcpu

_WINDOW = abi.RUN_OFFSETS["RUN_REQUEST_INTERRUPT_WINDOW"][1]
_IMMEDIATE_EXIT = abi.RUN_OFFSETS["RUN_IMMEDIATE_EXIT"][1]
_READY = abi.RUN_OFFSETS["RUN_READY_FOR_INTERRUPT"][1]
_IF_FLAG = abi.RUN_OFFSETS["RUN_IF_FLAG"][1]
_REASON = abi.RUN_OFFSETS["RUN_EXIT_REASON"][1] // 4
_CR8 = abi.RUN_OFFSETS["RUN_CR8"][1] // 8
_APIC_BASE = abi.RUN_OFFSETS["RUN_APIC_BASE"][1] // 8
_MMIO_GPA = abi.RUN_OFFSETS["RUN_MMIO_ADDRESS"][1] // 8
_MMIO_DATA = abi.RUN_OFFSETS["RUN_MMIO_DATA"][1] // 8
_MMIO_LENGTH = abi.RUN_OFFSETS["RUN_MMIO_LENGTH"][1] // 4
_MMIO_IS_WRITE = abi.RUN_OFFSETS["RUN_MMIO_IS_WRITE"][1]
_PAGE_SHIFT = 12
_BASE_ENABLED = 1 << 11
#: a sleep is at most this long; whoever wakes the vCPU ends it
_SLEEP_S = 1.0


class UserApic(Protocol):
    """A local APIC in user space, as its vCPU uses it."""

    base: int
    tpr: int
    halted: bool
    waiting: bool
    wake: Callable[[], None]

    @property
    def must_start(self) -> bool: ...
    def is_deliverable(self) -> bool: ...
    def take_vector(self) -> int | None: ...
    def take_nmi(self) -> bool: ...
    def take_init(self) -> bool: ...
    def take_startup(self) -> int | None: ...
    def pulse_lint1(self) -> None: ...
    def read(self, offset: int, size: int) -> int: ...
    def write(self, offset: int, size: int, value: int) -> None: ...


class UserLoop(RunLoop):
    """Runs one vCPU. ``kick`` gets its thread out of the guest; not called by that thread."""

    def __init__(
        self,
        vcpu: Vcpu,
        dispatch: Dispatch,
        apic: UserApic,
        kick: Callable[[], None],
        *,
        signature: int,
        is_bsp: bool,
    ) -> None:
        super().__init__(vcpu, dispatch)
        self.kick = kick
        self.attention = True
        self._apic = apic
        self._signature, self._is_bsp = signature, is_bsp
        self._thread = 0
        self._gate = threading.Lock()
        self._gate.acquire()
        apic.wake = self._wake
        table = list(self._plain_table)
        table[abi.KVM_EXIT_MMIO] = self._apic_page(table[abi.KVM_EXIT_MMIO])
        table[abi.KVM_EXIT_HLT] = self._halt
        table[abi.KVM_EXIT_SET_TPR] = table[abi.KVM_EXIT_IRQ_WINDOW_OPEN] = self._look_again
        self._plain_table = self._table = tuple(table)

    def reset(self) -> None:
        """What KVM told of the CPU before a reset of its registers is no longer so. Parked."""
        flags = self.vcpu.bytes_
        flags[_READY] = flags[_IF_FLAG] = flags[_WINDOW] = 0
        self.vcpu.qwords[_APIC_BASE] = self._apic.base = self.vcpu.sregs().apic_base
        self.vcpu.qwords[_CR8] = 0

    def _wake(self) -> None:
        """There is something new. Any thread."""
        self.attention = True
        if threading.get_ident() != self._thread:
            self.kick()

    def kicked(self) -> None:
        try:
            self._gate.release()
        except RuntimeError:  # it was opened already
            pass

    # --- running ---
    def run(self) -> None:
        """As ``RunLoop.run``."""
        self._thread = threading.get_ident()
        ioctl, fd, kvm_run = run_ioctl, self.vcpu.fd, abi.KVM_RUN
        dwords, qwords, counts, table = self.vcpu.dwords, self.vcpu.qwords, self.exit_counts, self._table
        apic = self._apic
        while True:
            try:
                if not self._until_it_may_run():
                    return
                while not ioctl(fd, kvm_run, 0):
                    reason = dwords[_REASON]
                    counts[reason] += 1
                    if qwords[_CR8] != apic.tpr >> 4:
                        apic.tpr = qwords[_CR8] << 4
                    if qwords[_APIC_BASE] != apic.base:
                        apic.base = qwords[_APIC_BASE]
                    table[reason]()
                    if self.attention:
                        self._look()
            except Exception:  # as in RunLoop; it may be before KVM_RUN that it went wrong
                self._handler_failed()
                return
            error = ctypes.get_errno()
            if error == errno.EINTR:
                return
            if error != errno.EAGAIN:
                self._run_failed(error)
                return

    def _until_it_may_run(self) -> bool:
        """Serve what has come, sleep while the CPU is halted; False: the thread is to leave. No access is half done."""
        apic, flags = self._apic, self.vcpu.bytes_
        while True:
            self.attention = False
            if apic.must_start:
                self._start()
            self._take_nmi()
            if not apic.waiting and (not apic.halted or (flags[_IF_FLAG] and apic.is_deliverable())):
                apic.halted = False
                self._inject()
                return True
            if flags[_IMMEDIATE_EXIT]:
                return False
            self._gate.acquire(timeout=_SLEEP_S)

    def _look(self) -> None:
        """Something has come; an access may be half done."""
        self.attention = False
        self._take_nmi()
        if self._apic.must_start or self._apic.halted:
            self.vcpu.bytes_[_IMMEDIATE_EXIT] = 1  # KVM completes the access, then ``run`` is left and entered again
        else:
            self._inject()

    def _take_nmi(self) -> None:
        if not self._apic.waiting and self._apic.take_nmi():
            self._apic.halted = False
            self.vcpu.inject_nmi()

    def _start(self) -> None:
        with self.dispatch.lock:  # an INIT stops the timer
            init, startup = self._apic.take_init(), self._apic.take_startup()
        if init:
            cpustate.initialise(self.vcpu, signature=self._signature, is_bsp=self._is_bsp)
            self.reset()
        if startup is not None and not self._is_bsp:
            cpustate.start_up(self.vcpu, startup)

    def _inject(self) -> None:
        """Give KVM an interrupt that the guest can take now, or have it say when it can."""
        apic, flags = self._apic, self.vcpu.bytes_
        if apic.is_deliverable():
            if flags[_READY] and flags[_IF_FLAG]:
                with self.dispatch.lock:
                    vector = apic.take_vector()
                if vector is not None:
                    self.vcpu.interrupt(vector)
                    flags[_READY] = 0
            flags[_WINDOW] = apic.is_deliverable()
        else:
            flags[_WINDOW] = 0
        self.vcpu.qwords[_CR8] = apic.tpr >> 4

    # --- exits ---
    def _halt(self) -> None:
        self._apic.halted = self.attention = True

    def _look_again(self) -> None:
        self.attention = True

    def _apic_page(self, elsewhere: Callable[[], None]) -> Callable[[], None]:
        """The handler of KVM_EXIT_MMIO: of the own APIC's page, or ``elsewhere``."""
        bytes_, dwords, qwords, apic = self.vcpu.bytes_, self.vcpu.dwords, self.vcpu.qwords, self._apic
        lock = self.dispatch.lock

        def handle() -> None:
            gpa, base = qwords[_MMIO_GPA], apic.base
            if gpa >> _PAGE_SHIFT != base >> _PAGE_SHIFT or not base & _BASE_ENABLED:
                elsewhere()
                return
            offset, length = gpa & (1 << _PAGE_SHIFT) - 1, dwords[_MMIO_LENGTH]
            with lock:
                if bytes_[_MMIO_IS_WRITE]:
                    apic.write(offset, length, qwords[_MMIO_DATA] & 0xFFFF_FFFF)
                else:
                    qwords[_MMIO_DATA] = apic.read(offset, length)
            self.attention = True

        return handle
