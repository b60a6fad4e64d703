# SPDX-License-Identifier: Apache-2.0
"""Intel 8254 programmable interval timer, ports 40h-43h: counter 0 is interrupt 0, counter 2 goes to the speaker.

Data sheet: Intel 231164 "82C54". Implemented: all six modes, binary and BCD, LSB/MSB/both, counter latch, read-back of
count and status with null count, gates, exact edges (``pit_counter.py``). Counters 0 and 1 have their gates tied high;
counter 1 (refresh) drives nothing. Reading port 43h gives 0, QEMU-COMPAT: hardware leaves the bus alone.

Used where the accelerator has no timer of its own; with KVM's interrupt controllers it is the kernel's (``kvm-pit``).
Reset starts all counters anew. While the VM is stopped virtual time stands still, and so do the counters. Where the
output changes faster than the host comes to look, interrupts merge; the counters stay exact.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.address_space import IoRange
from vmmd.core.device import Device
from vmmd.core.props import U32, prop
from vmmd.devices.isa.pit_counter import CONTROL_RW_SHIFT, Counter

if TYPE_CHECKING:
    from vmmd.core.device import DeviceContext, ResetKind
    from vmmd.core.props import PropSet

PIT_BASE = 0x40
PIT_PORTS = 4
PIT_GSI = 0
CONTROL_PORT = 3
SELECT_SHIFT = 6
SELECT_READ_BACK = 3
READ_BACK_NO_COUNT = 0x20
READ_BACK_NO_STATUS = 0x10
READ_BACK_COUNTERS_SHIFT = 1
TIMER = 0
SPEAKER = 2


class IsaPit(Device):
    """The 8254."""

    type_name = "isa-pit"
    description = "timer 8254"
    bus_type = "ISA"
    parent_type = "pit-common"

    class Props(Device.Props):
        iobase = prop(U32, 0xFFFF_FFFF, "first of its four ports; the board sets it")

    props: IsaPit.Props

    def __init__(self, props: PropSet, ctx: DeviceContext, id_: str | None = None) -> None:
        super().__init__(props, ctx, id_)
        now_ns = ctx.clock.now_ns()
        self._counters = [Counter(now_ns, gate=index != SPEAKER) for index in range(3)]
        self._connected = True
        self._due_ns = 0  # of the timer
        self._irq = ctx.irqs.line(PIT_GSI)
        self._timer = ctx.clock.timer(self._edge)

    def realize(self) -> None:
        base = PIT_BASE if self.props.iobase == 0xFFFF_FFFF else self.props.iobase & 0xFFFC
        self.resolved["iobase"] = base
        self.claim_pio(IoRange(base, PIT_PORTS, self._read, self._write, name="pit", max_width=1))
        self.on_undo(self._quiet)

    def _quiet(self) -> None:
        self._timer.cancel()
        self._irq.lower()

    def reset(self, kind: ResetKind) -> None:
        now_ns = self.ctx.clock.now_ns()
        for index, counter in enumerate(self._counters):
            counter.reset(now_ns, gate=index != SPEAKER)
        self._update(now_ns)

    # -- what the board and the speaker use ----------------------------------------------------------------

    def connect(self, on: bool) -> None:
        """Let counter 0 drive interrupt 0, or not: the HPET takes its place (legacy replacement)."""
        self._connected = on
        self._update(self.ctx.clock.now_ns())

    @property
    def speaker_gate(self) -> bool:
        return self._counters[SPEAKER].gate

    def set_speaker_gate(self, level: bool) -> None:
        self._counters[SPEAKER].set_gate(level, self.ctx.clock.now_ns())

    def speaker_out(self) -> int:
        return self._counters[SPEAKER].out(self.ctx.clock.now_ns())

    # -- output of counter 0 -------------------------------------------------------------------------------

    def _edge(self) -> None:
        """OUT of counter 0 changes. Late, it has been at the other level even if it is back by now."""
        now_ns = self.ctx.clock.now_ns()
        if now_ns > self._due_ns:
            self._irq.set(1 - self._irq.level)
        self._update(now_ns)

    def _update(self, now_ns: int) -> None:
        counter = self._counters[TIMER]
        due_ns = counter.next_edge_ns(now_ns) if self._connected else None
        self._irq.set(counter.out(now_ns) if self._connected else 0)
        if due_ns is None:
            self._timer.cancel()
        elif due_ns != self._timer.deadline_ns:
            self._due_ns = due_ns
            self._timer.arm(due_ns)

    # -- ports ---------------------------------------------------------------------------------------------

    def _read(self, offset: int, size: int) -> int:
        if offset == CONTROL_PORT:
            return 0
        return self._counters[offset].read(self.ctx.clock.now_ns())

    def _write(self, offset: int, size: int, value: int) -> None:
        now_ns = self.ctx.clock.now_ns()
        if offset == CONTROL_PORT:
            self._control(value, now_ns)
        else:
            self._counters[offset].write(value, now_ns)
            if offset != TIMER:
                return
        self._update(now_ns)

    def _control(self, value: int, now_ns: int) -> None:
        select = value >> SELECT_SHIFT
        if select == SELECT_READ_BACK:
            for index, counter in enumerate(self._counters):
                if value >> READ_BACK_COUNTERS_SHIFT & 1 << index:
                    if not value & READ_BACK_NO_COUNT:
                        counter.latch_count(now_ns)
                    if not value & READ_BACK_NO_STATUS:
                        counter.latch_status(now_ns)
        elif value >> CONTROL_RW_SHIFT & 3 == 0:
            self._counters[select].latch_count(now_ns)
        else:
            self._counters[select].write_control(value, now_ns)
