# SPDX-License-Identifier: Apache-2.0
"""One comparator ("timer") of the HPET: configuration, comparator, period, and when the next match is.

IA-PC HPET specification 1.0a, sections 2.3.8 and 2.3.9. ``tick`` is the main counter, not cut to 64 bits; ``target``
is the tick of the next match, None while the main counter is halted. Nothing here knows time or interrupts.
"""

from __future__ import annotations

MASK_32 = 0xFFFF_FFFF
MASK_64 = (1 << 64) - 1

TN_LEVEL = 0x0002
TN_ENABLE = 0x0004
TN_PERIODIC = 0x0008
TN_PERIODIC_CAPABLE = 0x0010
TN_64BIT_CAPABLE = 0x0020
TN_SET_ACCUMULATOR = 0x0040
TN_32BIT = 0x0100
TN_ROUTE = 0x3E00
TN_ROUTE_SHIFT = 9
TN_FSB_ENABLE = 0x4000
TN_FSB_CAPABLE = 0x8000
TN_WRITABLE = TN_LEVEL | TN_ENABLE | TN_PERIODIC | TN_SET_ACCUMULATOR | TN_32BIT | TN_ROUTE
TN_ROUTE_CAPABLE_SHIFT = 32

#: A comparator written with a value that the running counter passed so little ago (21 s) matches at once. QEMU-COMPAT:
#: hardware waits for the wrap; but a virtual CPU may stand still between its reading the counter and this write.
LATE_TICKS = 1 << 31


class Comparator:
    """Registers of timer N; the device does its interrupts."""

    __slots__ = ("comparator", "config", "fsb_route", "period", "routes", "target", "with_fsb")

    def __init__(self, routes: int, *, with_fsb: bool) -> None:
        """``routes``: bit n is set when it may use I/O APIC input n."""
        self.routes = routes
        self.with_fsb = with_fsb
        self.reset()

    def reset(self) -> None:
        self.config = 0  # the bits that software sets
        self.comparator = MASK_64
        self.period = 0
        self.fsb_route = 0  # address in the upper half, value in the lower
        self.target: int | None = None

    # -- registers -----------------------------------------------------------------------------------------

    @property
    def register(self) -> int:
        """Configuration and capabilities."""
        fixed = TN_PERIODIC_CAPABLE | TN_64BIT_CAPABLE | (TN_FSB_CAPABLE if self.with_fsb else 0)
        return self.config | fixed | self.routes << TN_ROUTE_CAPABLE_SHIFT

    def write_config(self, value: int, tick: int | None) -> None:
        """A route that this timer does not have reads back as 0, which tells software so."""
        value &= TN_WRITABLE | (TN_FSB_ENABLE if self.with_fsb else 0)
        if not self.routes >> ((value & TN_ROUTE) >> TN_ROUTE_SHIFT) & 1:
            value &= ~TN_ROUTE
        changed = self.config ^ value
        self.config = value
        if value & TN_32BIT:
            self.comparator &= MASK_32
            self.period &= MASK_32
        if changed & (TN_32BIT | TN_PERIODIC):
            self.restart(tick)

    def write_comparator(self, value: int, mask: int, tick: int | None) -> None:
        """``mask``: the half that is written, or all of it. Of a periodic timer it is the period, and the next match
        too when TN_SET_ACCUMULATOR says so, which holds for one write (2.3.9.2.2)."""
        if self.is_32bit:
            mask &= MASK_32
            if not mask:
                return
        periodic = self.config & TN_PERIODIC
        if periodic:
            self.period = self.period & ~mask | value & mask
        if not periodic or self.config & TN_SET_ACCUMULATOR:
            self.comparator = self.comparator & ~mask | value & mask
            self.config &= ~TN_SET_ACCUMULATOR
            self.restart(tick, late=True)

    # -- matching ------------------------------------------------------------------------------------------

    @property
    def is_32bit(self) -> bool:
        return bool(self.config & TN_32BIT)

    def restart(self, tick: int | None, *, late: bool = False) -> None:
        """Look for the next match from ``tick`` on; None: the counter has been halted."""
        if tick is None:
            self.target = None
            return
        mask = MASK_32 if self.is_32bit else MASK_64
        ahead = (self.comparator - tick) & mask
        if late and mask + 1 - ahead <= LATE_TICKS:
            ahead = 0
        self.target = tick + ahead

    def advance(self, tick: int) -> bool:
        """Go on to the first match after ``tick``. True: there was one (or more) up to ``tick``."""
        target = self.target
        if target is None or tick < target:
            return False
        mask = MASK_32 if self.is_32bit else MASK_64
        step = mask + 1
        if self.config & TN_PERIODIC and self.period:
            step = self.period
        steps = (tick - target) // step + 1
        self.target = target + steps * step
        self.comparator = (self.comparator + steps * step) & mask
        return True
