# SPDX-License-Identifier: Apache-2.0
"""High precision event timer at FED00000h: a 64-bit counter of 100 MHz and 3 to 32 comparators.

Data sheet: IA-PC HPET specification 1.0a (Intel, 2004), chapter 2. Implemented: 64- and 32-bit timers, one-shot and
periodic, level and edge interrupts, routing by capability, legacy replacement (timer 0 takes interrupt 0 from the 8254,
timer 1 takes interrupt 8 from the RTC), messages (FSB) with property ``msi``, accesses of 32 and 64 bits. The counter
follows from virtual time (10 ns a tick) and stands still while the VM is stopped; a reset halts and clears all.

QEMU-COMPAT: a comparator that has just been passed matches at once; smaller or unaligned accesses read 0 and write
nothing; writes to the running counter are ignored. Differences to QEMU 7.2, on purpose: no extra interrupt when the low
half of the counter wraps, status bits of level interrupts outlive ENABLE_CNF (2.3.5), reserved bits and routes that the
timer does not have do not stick, a 64-bit access is one access. Where a period is shorter than the host's look at the
clock, interrupts merge; counter and comparators stay exact (QEMU runs every one of them).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.address_space import IoRange
from vmmd.core.device import Device
from vmmd.core.props import BOOL, U8, U32, prop
from vmmd.devices.hpet_comparator import (
    MASK_32,
    MASK_64,
    TN_ENABLE,
    TN_FSB_ENABLE,
    TN_LEVEL,
    TN_ROUTE,
    TN_ROUTE_SHIFT,
    Comparator,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.device import DeviceContext, ResetKind
    from vmmd.core.irq import IrqLine
    from vmmd.core.props import PropSet

HPET_BASE = 0xFED0_0000
HPET_BYTES = 0x400
TICK_NS = 10
PERIOD_FS = TICK_NS * 1_000_000
TIMERS_MIN, TIMERS_MAX = 3, 32
GSI_COUNT = 24

CAP_REVISION = 0x01
CAP_TIMERS_SHIFT = 8
CAP_64BIT = 0x2000
CAP_LEGACY = 0x8000
CAP_VENDOR = 0x8086 << 16

REG_CAPABILITIES = 0x000
REG_CONFIG = 0x010
REG_STATUS = 0x020
REG_COUNTER = 0x0F0
REG_TIMERS = 0x100
TIMER_BYTES = 0x20
TIMER_CONFIG = 0x00
TIMER_COMPARATOR = 0x08
TIMER_FSB_ROUTE = 0x10

CONFIG_ENABLE = 0x1
CONFIG_LEGACY = 0x2

#: what replaces the routes of the first timers in legacy mode: the 8254's and the RTC's interrupts
LEGACY_GSIS = (0, 8)
#: what a pc's timers may use
PC_ROUTES = 0x4


class Hpet(Device):
    """The timer block. The machine sets ``legacy_changed`` before ``plug``."""

    type_name = "hpet"
    description = "high precision event timer"

    class Props(Device.Props):
        """Size and interrupts."""

        timers = prop(U8, 3, "comparators, 3 to 32")
        msi = prop(BOOL, False, "timers may send messages")
        intcap = prop(
            U32, 0, "I/O APIC inputs that timers may use, one bit each; 0: the board says", wire="hpet-intcap"
        )

    props: Hpet.Props

    def __init__(self, props: PropSet, ctx: DeviceContext, id_: str | None = None) -> None:
        super().__init__(props, ctx, id_)
        #: called when the timers take (True) or give back interrupts 0 and 8
        self.legacy_changed: Callable[[bool], None] = lambda on: None
        routes = self.props.intcap or PC_ROUTES
        count = min(max(self.props.timers, TIMERS_MIN), TIMERS_MAX)
        self.resolved |= {"intcap": routes, "timers": count}
        self._timers = [Comparator(routes, with_fsb=self.props.msi) for _ in range(count)]
        self._lines = [self._make_lines(index, routes) for index in range(count)]
        self._config = 0
        self._status = 0  # of level-triggered timers
        self._counter = 0  # at _origin_ns, or halted at
        self._origin_ns = 0
        self._wake = ctx.clock.timer(self._matched)

    def _make_lines(self, index: int, routes: int) -> dict[int, IrqLine]:
        gsis = {gsi for gsi in range(GSI_COUNT) if routes >> gsi & 1} | set(LEGACY_GSIS[index : index + 1])
        return {gsi: self.ctx.irqs.line(gsi) for gsi in sorted(gsis)}

    # -- life ----------------------------------------------------------------------------------------------

    def realize(self) -> None:
        entry = IoRange(HPET_BASE, HPET_BYTES, self._read, self._write, name="hpet", max_width=8)
        self.ctx.mmio.add(entry)
        self.on_undo(lambda: self.ctx.mmio.remove(entry))
        self.on_undo(self._quiet)

    def _quiet(self) -> None:
        self._wake.cancel()
        for lines in self._lines:
            for line in lines.values():
                line.lower()

    def reset(self, kind: ResetKind) -> None:
        legacy = self._config & CONFIG_LEGACY
        self._config = self._status = self._counter = self._origin_ns = 0
        for timer in self._timers:
            timer.reset()
        self._quiet()
        if legacy:
            self.legacy_changed(False)

    @property
    def block_id(self) -> int:
        """The lower half of the capabilities register, as firmware is told it."""
        timers = len(self._timers) - 1 << CAP_TIMERS_SHIFT
        return CAP_VENDOR | CAP_LEGACY | CAP_64BIT | timers | CAP_REVISION

    # -- counter -------------------------------------------------------------------------------------------

    def _tick(self) -> int:
        """The main counter, not cut to 64 bits."""
        if not self._config & CONFIG_ENABLE:
            return self._counter
        return self._counter + (self.ctx.clock.now_ns() - self._origin_ns) // TICK_NS

    def _running_tick(self) -> int | None:
        return self._tick() if self._config & CONFIG_ENABLE else None

    # -- matches and interrupts ----------------------------------------------------------------------------

    def _matched(self) -> None:
        self._collect()
        self._update()

    def _collect(self) -> None:
        """Bring comparators and status up to the present time, with the interrupts that matches cause."""
        tick = self._tick()
        for index, timer in enumerate(self._timers):
            if timer.advance(tick):
                self._expire(index, timer)

    def _expire(self, index: int, timer: Comparator) -> None:
        config = timer.config
        if config & TN_FSB_ENABLE:
            if config & TN_ENABLE:
                self.ctx.interrupts.signal_msi(timer.fsb_route >> 32, timer.fsb_route & MASK_32)
        elif config & TN_LEVEL:
            self._status |= 1 << index
        elif config & TN_ENABLE:
            line = self._line(index, timer)
            if line is not None:
                line.pulse()

    def _line(self, index: int, timer: Comparator) -> IrqLine | None:
        """Where its interrupts go; None: nowhere, no route has been chosen."""
        if self._config & CONFIG_LEGACY and index < len(LEGACY_GSIS):
            return self._lines[index][LEGACY_GSIS[index]]
        return self._routed(index, timer)

    def _routed(self, index: int, timer: Comparator) -> IrqLine | None:
        route = (timer.config & TN_ROUTE) >> TN_ROUTE_SHIFT
        return self._lines[index].get(route) if timer.routes >> route & 1 else None

    def _update(self) -> None:
        """Drive the level-triggered interrupts and wake up at the next match that anybody would notice."""
        due: int | None = None
        for index, timer in enumerate(self._timers):
            by_message = timer.config & TN_FSB_ENABLE
            pending = bool(self._status >> index & 1) and not by_message
            chosen = self._line(index, timer)
            active = self._config & CONFIG_ENABLE and timer.config & (TN_ENABLE | TN_LEVEL) == TN_ENABLE | TN_LEVEL
            for line in self._lines[index].values():
                line.set(1 if pending and active and line is chosen else 0)
            if timer.config & TN_ENABLE and timer.target is not None and not pending:
                due = timer.target if due is None else min(due, timer.target)
        if due is None:
            self._wake.cancel()
            return
        due_ns = max(self._origin_ns + (due - self._counter) * TICK_NS, self.ctx.clock.now_ns())
        if due_ns != self._wake.deadline_ns:
            self._wake.arm(due_ns)

    # -- registers -----------------------------------------------------------------------------------------

    def _read(self, offset: int, size: int) -> int:
        if size < 4 or offset & 3:
            return 0
        value = self._register(offset & ~7) >> (8 * (offset & 4))
        if size == 8 and offset & 4:
            value |= (self._register((offset & ~7) + 8) & MASK_32) << 32
        return value & (MASK_64 if size == 8 else MASK_32)

    def _register(self, register: int) -> int:
        """64 bits at a multiple of 8."""
        if register >= REG_TIMERS:
            index, which = divmod(register - REG_TIMERS, TIMER_BYTES)
            return self._timer_register(self._timers[index], which) if index < len(self._timers) else 0
        if register == REG_COUNTER:
            return self._tick() & MASK_64
        if register == REG_CAPABILITIES:
            return self.block_id | PERIOD_FS << 32
        if register == REG_STATUS:
            self._collect()
            return self._status
        return self._config if register == REG_CONFIG else 0

    def _timer_register(self, timer: Comparator, which: int) -> int:
        if which == TIMER_CONFIG:
            return timer.register
        if which == TIMER_COMPARATOR:
            self._collect()  # a periodic one moves on
            return timer.comparator
        return timer.fsb_route if which == TIMER_FSB_ROUTE else 0

    def _write(self, offset: int, size: int, value: int) -> None:
        if size < 4 or offset & 3:
            return
        if size == 8 and offset & 4:
            self._write(offset, 4, value & MASK_32)
            if offset + 4 < HPET_BYTES:
                self._write(offset + 4, 4, value >> 32)
            return
        shift = 8 * (offset & 4)
        mask = MASK_64 if size == 8 else MASK_32 << shift
        self._collect()
        self._write_register(offset & ~7, value << shift, mask)
        self._update()

    def _write_register(self, register: int, value: int, mask: int) -> None:
        """``mask``: which bits of the 64 are written."""
        if register >= REG_TIMERS:
            index, which = divmod(register - REG_TIMERS, TIMER_BYTES)
            if index < len(self._timers):
                self._write_timer(index, which, value, mask)
        elif register == REG_CONFIG:
            self._write_config((self._config & ~mask | value & mask) & (CONFIG_ENABLE | CONFIG_LEGACY))
        elif register == REG_STATUS:
            self._status &= ~(value & mask)
        elif register == REG_COUNTER and not self._config & CONFIG_ENABLE:
            self._counter = self._counter & ~mask | value & mask

    def _write_config(self, value: int) -> None:
        changed = self._config ^ value
        if changed & CONFIG_ENABLE:
            self._counter = self._tick() & MASK_64
            self._origin_ns = self.ctx.clock.now_ns()
        self._config = value
        if changed & CONFIG_ENABLE:
            for timer in self._timers:
                timer.restart(self._running_tick())
        if changed & CONFIG_LEGACY:
            self._update()  # its own lines first: not both at once
            self.legacy_changed(bool(value & CONFIG_LEGACY))

    def _write_timer(self, index: int, which: int, value: int, mask: int) -> None:
        timer = self._timers[index]
        if which == TIMER_CONFIG and mask & MASK_32:
            timer.write_config(value & mask, self._running_tick())
            if not timer.config & TN_LEVEL:
                self._status &= ~(1 << index)
        elif which == TIMER_COMPARATOR:
            timer.write_comparator(value, mask, self._running_tick())
        elif which == TIMER_FSB_ROUTE and timer.with_fsb:
            timer.fsb_route = timer.fsb_route & ~mask | value & mask
