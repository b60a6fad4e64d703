# SPDX-License-Identifier: Apache-2.0
"""Watchdog timer of the Intel 6300ESB I/O controller hub (data sheet 300641, chapter 15, "Watchdog Timer").

Two stages count down one after the other, each from a 20-bit preload value. Stage 1 sets the interrupt status bit; when
stage 2 is over, WDT_TOUT would reset the board: ``-action watchdog=`` says what follows. In free-running mode stage 1
runs again and again and there is no stage 2.

Configuration space: 60h configuration (interrupt type, prescaler, output enable), 68h lock (lock, enable, mode). BAR 0:
preload values 1 and 2, interrupt status, reload register. Preload values and the reload bit are taken only right after
80h and 86h were written to the reload register. Not implemented: the interrupt of stage 1, which goes to an input of
the 6300ESB's own second I/O APIC, or is an SMI; neither exists on this board. A reset stops the timer; the time-out bit
survives it, so that the guest can tell why it was reset. Time is virtual: it stands still while the machine is stopped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.devices.pci.device import PciDevice
from vmmd.units import NS_PER_S

if TYPE_CHECKING:
    from vmmd.core.clock import Timer
    from vmmd.core.device import DeviceContext, ResetKind
    from vmmd.core.props import PropSet

# configuration space
REG_CONFIG = 0x60
CONFIG_INTERRUPT_TYPE = 0x0003
CONFIG_FAST = 0x0004  # prescaler: 1 MHz instead of 1 kHz
CONFIG_NO_OUTPUT = 0x0020  # stage 2 ends without a reset
REG_LOCK = 0x68
LOCK_LOCKED = 0x01  # nothing of this register changes before a reset
LOCK_ENABLE = 0x02
LOCK_FREE_RUNNING = 0x04

# BAR 0
BAR_BYTES = 16
REG_PRELOAD_1 = 0x00
REG_PRELOAD_2 = 0x04
REG_INTERRUPT_STATUS = 0x08
REG_RELOAD = 0x0C
PRELOAD_MASK = 0xF_FFFF
STATUS_ACTIVE = 0x01
RELOAD_NOW = 0x0100
RELOAD_TIMED_OUT = 0x0200  # write one to clear
UNLOCK_FIRST, UNLOCK_SECOND = 0x80, 0x86

PCI_CLOCK_HZ = 33_000_000
SLOW_SHIFT, FAST_SHIFT = 15, 5  # PCI clocks of one count, as powers of two


class I6300esb(PciDevice):
    """The PCI watchdog."""

    type_name = "i6300esb"
    description = "watchdog of the Intel 6300ESB"
    category = "watchdog"
    user_creatable = True
    vendor_id = 0x8086
    device_id = 0x25AB
    class_code = 0x08_8000  # system peripheral, other
    KEPT_AT_RESET = ("_timed_out",)

    def __init__(self, props: PropSet, ctx: DeviceContext, id_: str | None = None) -> None:
        super().__init__(props, ctx, id_)
        self._timer: Timer = ctx.clock.timer(self._expired)
        self._timed_out = False
        self._clear()

    def _clear(self) -> None:
        self._stage = 1
        self._preload = [PRELOAD_MASK, PRELOAD_MASK]
        self._unlock_step = 0  # writes of the unlock sequence seen so far
        self._interrupt_active = False

    def realize(self) -> None:
        super().realize()
        self.on_undo(self._timer.cancel)
        self.config.define(REG_CONFIG, 2, 0, CONFIG_INTERRUPT_TYPE | CONFIG_FAST | CONFIG_NO_OUTPUT)
        self.config.define(REG_LOCK, 1, 0)  # written by ``config_write``, which knows of the lock
        self.add_bar(0, BAR_BYTES, "mem32", self._read, self._write, name=self.type_name)

    def reset(self, kind: ResetKind) -> None:
        super().reset(kind)
        self._timer.cancel()
        self._clear()

    def config_write(self, offset: int, size: int, value: int) -> None:
        super().config_write(offset, size, value)
        if offset <= REG_LOCK < offset + size:
            self._write_lock(value >> 8 * (REG_LOCK - offset) & 0xFF)

    def _write_lock(self, value: int) -> None:
        old = self.config.get(REG_LOCK, 1)
        if old & LOCK_LOCKED:
            return
        self.config.set(REG_LOCK, 1, value & (LOCK_LOCKED | LOCK_ENABLE | LOCK_FREE_RUNNING))
        if not value & LOCK_ENABLE:
            self._timer.cancel()
        elif not old & LOCK_ENABLE:
            self._start(1)

    def _start(self, stage: int) -> None:
        self._stage = stage
        shift = FAST_SHIFT if self.config.get(REG_CONFIG, 2) & CONFIG_FAST else SLOW_SHIFT
        clocks = self._preload[stage - 1] << shift
        if self._free_running:  # the host is not kept busy by a guest that wants a millionth of a second
            clocks = max(clocks, 1 << SLOW_SHIFT)
        self._timer.arm(self.ctx.clock.now_ns() + clocks * NS_PER_S // PCI_CLOCK_HZ)

    @property
    def _free_running(self) -> bool:
        return bool(self.config.get(REG_LOCK, 1) & LOCK_FREE_RUNNING)

    def _expired(self) -> None:
        if self._stage == 1:
            self._interrupt_active = True
            self._start(1 if self._free_running else 2)
        elif not self.config.get(REG_CONFIG, 2) & CONFIG_NO_OUTPUT:
            self._timed_out = True
            self.ctx.requests.request_watchdog()

    # -- BAR 0 ---------------------------------------------------------------------------------------------

    def _read(self, offset: int, size: int) -> int:
        register = offset & ~3
        if register == REG_INTERRUPT_STATUS:
            value = STATUS_ACTIVE if self._interrupt_active else 0
        elif register == REG_RELOAD:
            value = RELOAD_TIMED_OUT if self._timed_out else 0
        else:
            value = self._preload[register // REG_PRELOAD_2]
        return value >> 8 * (offset & 3)

    def _write(self, offset: int, size: int, value: int) -> None:
        if offset == REG_RELOAD and value in (UNLOCK_FIRST, UNLOCK_SECOND):
            follows = value == UNLOCK_SECOND and self._unlock_step == 1
            self._unlock_step = 2 if follows else int(value == UNLOCK_FIRST)
            return
        unlocked, self._unlock_step = self._unlock_step == 2, 0
        if offset == REG_INTERRUPT_STATUS and value & STATUS_ACTIVE:
            self._interrupt_active = False
        elif unlocked and offset in (REG_PRELOAD_1, REG_PRELOAD_2) and size > 1:
            self._preload[offset // REG_PRELOAD_2] = value & PRELOAD_MASK
        elif unlocked and offset == REG_RELOAD:
            if value & RELOAD_TIMED_OUT:
                self._timed_out = False
            if value & RELOAD_NOW and self.config.get(REG_LOCK, 1) & LOCK_ENABLE:
                self._start(1)
