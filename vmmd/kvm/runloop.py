# SPDX-License-Identifier: Apache-2.0
"""The vCPU's inner loop: enter the guest, dispatch the exit by table, enter again (architecture §4, §5).

It checks nothing between two exits. Whoever wants the vCPU out of the guest sets ``immediate_exit`` (and signals the
thread if it may be inside KVM_RUN): the next KVM_RUN then completes a half-done port or memory access and returns
EINTR, and ``run`` returns. So the state a paused vCPU shows never has an access in flight.

Affinity: the vCPU's own thread. Handlers of devices run with the DeviceLock held for exactly one exit.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING, NamedTuple, Protocol

from vmmd.core.address_space import MASKS
from vmmd.core.device import ShutdownCause
from vmmd.core.trace_events import KVM_RUN_EXIT
from vmmd.kvm import abi
from vmmd.kvm.coalesced import CoalescedRing
from vmmd.kvm.ioctl import run_ioctl
from vmmd.log import get_logger

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from vmmd.core.address_space import AddressSpace, IoRange
    from vmmd.core.device import SystemRequests
    from vmmd.kvm.vcpu import Vcpu

log = get_logger("vmmd.kvm")

#: exit reasons that are counted and dispatched; a later kernel's larger ones are unknown exits
REASONS = 64

#: indices of ``kvm_run`` fields in the 16-, 32- and 64-bit views
_REASON = abi.RUN_OFFSETS["RUN_EXIT_REASON"][1] // 4
_UNION = abi.RUN_OFFSETS["RUN_UNION"][1] // 4
_COUNT = abi.RUN_OFFSETS["RUN_IO_COUNT"][1] // 4
_MMIO_GPA = abi.RUN_OFFSETS["RUN_MMIO_ADDRESS"][1] // 8
_MMIO_DATA = abi.RUN_OFFSETS["RUN_MMIO_DATA"][1] // 8
_MMIO_LENGTH = abi.RUN_OFFSETS["RUN_MMIO_LENGTH"][1] // 4
_MMIO_IS_WRITE = abi.RUN_OFFSETS["RUN_MMIO_IS_WRITE"][1]
_IMMEDIATE_EXIT = abi.RUN_OFFSETS["RUN_IMMEDIATE_EXIT"][1]
_PAGE = 4096
_MEMO_LIMIT = 4096


class Dispatch(NamedTuple):
    """Where exits go. ``hold`` keeps every vCPU out of the guest until the loop has served a request."""

    pio: AddressSpace
    mmio: AddressSpace
    lock: threading.Lock
    requests: SystemRequests
    hold: Callable[[], None]
    hidden: HiddenMemory


class HiddenMemory(Protocol):
    """Memory that no slot showed at the moment of an access: a slot change in another vCPU, or read-only shadow RAM."""

    def read_hidden(self, gpa: int, length: int) -> bytes | None:
        """The bytes a slot would show, or None when the address is no memory. DeviceLock held."""

    def write_hidden(self, gpa: int, data: bytes) -> bool:
        """Store (or drop, for ROM); False when the address is no memory. DeviceLock held."""


class RunLoop:
    """Runs one vCPU. ``exit_counts[reason]`` counts exits; written by this vCPU's thread only."""

    def __init__(self, vcpu: Vcpu, dispatch: Dispatch) -> None:
        self.vcpu = vcpu
        self.dispatch = dispatch
        self.exit_counts = [0] * REASONS
        ring = CoalescedRing(vcpu, dispatch)
        table: list[Callable[[], None]] = [self._unknown_exit] * REASONS
        table[abi.KVM_EXIT_IO] = _pio_handler(vcpu, dispatch, ring)
        table[abi.KVM_EXIT_MMIO] = _mmio_handler(vcpu, dispatch, ring)
        table[abi.KVM_EXIT_SHUTDOWN] = self._triple_fault
        table[abi.KVM_EXIT_SYSTEM_EVENT] = self._system_event
        table[abi.KVM_EXIT_INTERNAL_ERROR] = self._internal_error
        table[abi.KVM_EXIT_FAIL_ENTRY] = self._fail_entry
        table[abi.KVM_EXIT_INTR] = table[abi.KVM_EXIT_IRQ_WINDOW_OPEN] = table[abi.KVM_EXIT_NMI] = _nothing
        self._plain_table = self._table = tuple(table)

    def run(self) -> None:
        """Run the guest until ``immediate_exit`` was set. Never raises: what goes wrong stops the VM. When KVM_RUN
        itself fails it returns at once: a broken VM (EIO) does not look at ``immediate_exit``; pauses would hang."""
        ioctl, fd, kvm_run = run_ioctl, self.vcpu.fd, abi.KVM_RUN
        dwords, counts, table = self.vcpu.dwords, self.exit_counts, self._table
        while True:
            try:
                while not ioctl(fd, kvm_run, 0):
                    reason = dwords[_REASON]
                    counts[reason] += 1
                    table[reason]()
            except Exception:  # a bug in a device's handler must not end the thread (architecture §3 L8)
                self._handler_failed()
                continue
            error = ctypes.get_errno()
            if error == errno.EINTR:
                return
            if error != errno.EAGAIN:  # EAGAIN: an application processor got its INIT or SIPI
                self._run_failed(error)
                return

    def reset(self) -> None:
        """The registers were reset. Parked."""

    def kicked(self) -> None:
        """``immediate_exit`` was set. Any thread."""

    def report_exits(self, index: int | None) -> None:
        """Report every exit as one of vCPU ``index``, or (None) no longer. ``run`` sees it when it is called the next
        time, so kick the vCPU. Any thread."""
        table = self._plain_table
        if index is not None:
            table = tuple(_reporting(index, reason, handler) for reason, handler in enumerate(table))
        self._table = table

    # --- exits that stop the machine ---
    def _triple_fault(self) -> None:
        # QEMU-COMPAT: a triple fault is a reset by the guest
        self._request_reset()

    def _request_reset(self) -> None:
        self.dispatch.requests.request_reset(ShutdownCause.GUEST_RESET)
        self.dispatch.hold()

    def _system_event(self) -> None:
        kind = self.vcpu.dwords[_UNION]
        if kind == abi.KVM_SYSTEM_EVENT_RESET:
            self._request_reset()
        elif kind == abi.KVM_SYSTEM_EVENT_SHUTDOWN:
            self.dispatch.requests.request_shutdown(ShutdownCause.GUEST_SHUTDOWN)
            self.dispatch.hold()
        elif kind == abi.KVM_SYSTEM_EVENT_CRASH:
            self.dispatch.requests.request_shutdown(ShutdownCause.GUEST_PANIC)
            self.dispatch.hold()
        else:
            self._give_up(f"KVM: unknown system event {kind}")

    def _internal_error(self) -> None:
        dwords = self.vcpu.dwords
        suberror = dwords[_UNION]
        count = min(dwords[_UNION + 1], 16)
        start = abi.RUN_OFFSETS["RUN_INTERNAL_DATA"][1] // 8
        words = self.vcpu.qwords[start : start + count]
        lines = [f"KVM internal error. Suberror: {suberror}"]
        if suberror == abi.KVM_INTERNAL_ERROR_EMULATION:
            lines.append("emulation failure")
            if count and words[0] & abi.KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES:
                size = min(self.vcpu.bytes_[abi.RUN_OFFSETS["RUN_INSN_SIZE"][1]], 15)
                at = abi.RUN_OFFSETS["RUN_INSN_BYTES"][1]
                lines.append(f"instruction bytes: {self.vcpu.bytes_[at : at + size].hex(' ')}")
        lines += [f"extra data[{number}]: {word:#018x}" for number, word in enumerate(words)]
        self._give_up("\n".join(lines))

    def _fail_entry(self) -> None:
        reason = self.vcpu.qwords[_UNION // 2]
        cpu = self.vcpu.dwords[abi.RUN_OFFSETS["RUN_FAIL_CPU"][1] // 4]
        self._give_up(f"KVM: entry failed, hardware error {reason:#x} on host CPU {cpu}")

    def _unknown_exit(self) -> None:
        reason = self.vcpu.dwords[_REASON]
        if reason == abi.KVM_EXIT_UNKNOWN:
            self._give_up(f"KVM: unknown exit, hardware reason {self.vcpu.qwords[_UNION // 2]:x}")
        else:
            self._give_up(f"KVM: unknown exit reason {reason}")

    def _run_failed(self, error: int) -> None:
        self._give_up(f"kvm run failed: {os.strerror(error)}")

    def _handler_failed(self) -> None:
        reason = self.vcpu.dwords[_REASON]
        if reason >= REASONS:
            self._unknown_exit()
            return
        log.exception("vCPU %d: a device failed on exit reason %d", self.vcpu.apic_id, reason)
        self.dispatch.requests.request_internal_error(f"vCPU {self.vcpu.apic_id}: a device handler raised, see the log")
        self.dispatch.hold()

    def _give_up(self, message: str) -> None:
        """Log with registers and stop the VM in state internal-error; this vCPU parks."""
        from vmmd.kvm.cpustate import registers_text

        try:
            log.error("vCPU %d: %s\n%s", self.vcpu.apic_id, message, registers_text(self.vcpu))
        except Exception:  # the descriptor may be what is broken
            log.exception("vCPU %d: %s; its registers cannot be read", self.vcpu.apic_id, message)
        self.dispatch.requests.request_internal_error(message.split("\n", 1)[0])
        self.dispatch.hold()


def _reporting(index: int, reason: int, handler: Callable[[], None]) -> Callable[[], None]:
    def report_and_handle() -> None:
        KVM_RUN_EXIT(index, reason)
        handler()

    return report_and_handle


def _nothing() -> None:
    """An exit that only says: enter again."""


def _pio_handler(vcpu: Vcpu, dispatch: Dispatch, ring: CoalescedRing) -> Callable[[], None]:
    """The handler of KVM_EXIT_IO with everything it touches in cells."""
    dwords = vcpu.dwords
    space, zones, drain = dispatch.pio, ring.zones, ring.drain
    acquire, release = dispatch.lock.acquire, dispatch.lock.release
    # SAFETY: x86 KVM has the data of port I/O in the second page of the mapping (KVM_PIO_PAGE_OFFSET)
    data = vcpu.bytes_[_PAGE : 2 * _PAGE]
    views = {1: data, 2: data.cast("H"), 4: data.cast("I")}

    def handle() -> None:
        head = dwords[_UNION]  # direction, size, port
        port = head >> 16
        size = head >> 8 & 0xFF
        view = views[size]
        acquire()
        try:
            if zones:
                drain()
            if dwords[_COUNT] != 1:
                _string_io(space, head, view, dwords[_COUNT])
                return
            entry = space.exact.get(port)
            if (
                entry is None
                or size > entry.max_width
                or (offset := port - entry.base) & (size - 1)
                or port + size > entry.end
            ):
                if head & 1:
                    space.write(port, size, view[0])
                else:
                    view[0] = space.read(port, size)
            elif head & 1:
                entry.write(offset, size, view[0])
            else:
                view[0] = entry.read(offset, size) & MASKS[size]
        finally:
            release()

    return handle


def _string_io(space: AddressSpace, head: int, view: memoryview, count: int) -> None:
    """``rep ins/outs``: ``count`` items of the data page, one access each. DeviceLock held."""
    port = head >> 16
    size = head >> 8 & 0xFF
    if head & 1:
        write = space.write
        for value in view[:count].tolist():
            write(port, size, value)
        return
    count = min(count, len(view))
    entry = space.exact.get(port)
    if entry is not None and entry.read_items is not None and entry.read is entry.plain[0]:
        entry.read_items(port - entry.base, size, view[:count].cast("B"))
        return
    read = space.read
    for position in range(count):
        view[position] = read(port, size)


def _mmio_handler(vcpu: Vcpu, dispatch: Dispatch, ring: CoalescedRing) -> Callable[[], None]:
    """The handler of KVM_EXIT_MMIO with everything it touches in cells."""
    bytes_, dwords, qwords = vcpu.bytes_, vcpu.dwords, vcpu.qwords
    space, zones, drain = dispatch.mmio, ring.zones, ring.drain
    acquire, release = dispatch.lock.acquire, dispatch.lock.release
    #: ranges by address, as long as the space has not changed; DeviceLock held. Bounded: the guest chooses addresses.
    memo: dict[int, IoRange] = {}
    published = space.exact

    def look_up(gpa: int) -> IoRange | None:
        nonlocal published
        if space.exact is not published or len(memo) >= _MEMO_LIMIT:
            memo.clear()
            published = space.exact
        entry = space.find(gpa)
        if entry is not None:
            memo[gpa] = entry
        return entry

    def handle() -> None:
        gpa = qwords[_MMIO_GPA]
        length = dwords[_MMIO_LENGTH]
        acquire()
        try:
            if zones:
                drain()
            entry = memo.get(gpa)
            if entry is None or space.exact is not published:
                entry = look_up(gpa)
            mask = MASKS.get(length)
            if (
                entry is None
                or mask is None
                or length > entry.max_width
                or (offset := gpa - entry.base) & (length - 1)
                or gpa + length > entry.end
            ):
                _slow_access(vcpu, dispatch, entry)
            elif bytes_[_MMIO_IS_WRITE]:
                entry.write(offset, length, qwords[_MMIO_DATA] & mask)
            else:
                qwords[_MMIO_DATA] = entry.read(offset, length) & mask
        finally:
            release()

    return handle


def _slow_access(vcpu: Vcpu, dispatch: Dispatch, entry: IoRange | None) -> None:
    """An MMIO exit that ``entry`` does not take as it is. DeviceLock held."""
    gpa = vcpu.qwords[_MMIO_GPA]
    length = min(vcpu.dwords[_MMIO_LENGTH], 8)
    if vcpu.bytes_[_MMIO_IS_WRITE]:
        slow_write(dispatch, entry, gpa, vcpu.qwords[_MMIO_DATA].to_bytes(8, "little")[:length])
    else:
        value = slow_read(dispatch, entry, gpa, length)
        vcpu.qwords[_MMIO_DATA] = int.from_bytes(value.ljust(8, b"\0"), "little")


def _powers(length: int) -> list[tuple[int, int]]:
    """(offset, size) pieces of 8, 4, 2 and 1 bytes that make up an access of any length up to 8."""
    pieces, offset = [], 0
    for size in (8, 4, 2, 1):
        while length - offset >= size:
            pieces.append((offset, size))
            offset += size
    return pieces


def slow_read(dispatch: Dispatch, entry: IoRange | None, gpa: int, length: int) -> bytes:
    """A read that no range takes as it is: RAM met in a slot change, an odd length, a hole. DeviceLock held."""
    if entry is None and (data := dispatch.hidden.read_hidden(gpa, length)) is not None:
        return data
    parts = (dispatch.mmio.read(gpa + offset, size).to_bytes(size, "little") for offset, size in _powers(length))
    return b"".join(parts)


def slow_write(dispatch: Dispatch, entry: IoRange | None, gpa: int, data: bytes) -> None:
    """A write that no range takes as it is. DeviceLock held."""
    if entry is None and dispatch.hidden.write_hidden(gpa, data):
        return
    for offset, size in _powers(len(data)):
        dispatch.mmio.write(gpa + offset, size, int.from_bytes(data[offset : offset + size], "little"))
