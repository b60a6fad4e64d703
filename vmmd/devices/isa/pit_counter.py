# SPDX-License-Identifier: Apache-2.0
"""One counter of the Intel 8254: modes, count, gate and output as functions of time. No ports, no interrupt.

Data sheet: Intel 231164 "82C54 CHMOS Programmable Interval Timer", sections "Operational Description" and "Mode
Definitions". Nothing ticks: the counting element follows from the time since it was loaded, in whole CLK pulses,
so nothing drifts; ``next_edge_ns`` says to the nanosecond when OUT changes. DeviceLock held.

The phase of CLK is free: the pulse that loads a count (or that a gate's edge waits for) is taken to come with the
access itself, so that the N+1 pulses of the data sheet end N periods after the write.
"""

from __future__ import annotations

from vmmd.units import NS_PER_S

FREQUENCY_HZ = 1_193_182

CONTROL_BCD = 0x01
CONTROL_MODE_SHIFT = 1
CONTROL_RW_SHIFT = 4
CONTROL_STORED = 0x3F  # what the status byte gives back
STATUS_OUT = 0x80
STATUS_NULL_COUNT = 0x40

RW_LSB = 1
RW_MSB = 2
RW_BOTH = 3

MODE_TERMINAL_COUNT = 0
MODE_ONE_SHOT = 1
MODE_RATE = 2
MODE_SQUARE = 3
MODE_SOFTWARE_STROBE = 4
MODE_HARDWARE_STROBE = 5
_PERIODIC = (MODE_RATE, MODE_SQUARE)
_TRIGGERED = (MODE_ONE_SHOT, MODE_HARDWARE_STROBE)

#: mode 3, read and write not chosen yet: what firmware finds, QEMU-COMPAT (the data sheet leaves it undefined)
_POWER_ON_CONTROL = MODE_SQUARE << CONTROL_MODE_SHIFT
_BINARY_MODULUS = 1 << 16
_BCD_MODULUS = 10_000


def _to_bcd(value: int) -> int:
    return value // 1000 << 12 | value // 100 % 10 << 8 | value // 10 % 10 << 4 | value % 10


def _from_bcd(register: int) -> int:
    """Digits above 9, which the data sheet does not define, count with their place value."""
    return (register >> 12) * 1000 + (register >> 8 & 15) * 100 + (register >> 4 & 15) * 10 + (register & 15)


class Counter:
    """One of the three. ``gate`` is its GATE input."""

    __slots__ = (
        "_control", "_count", "_held", "_latch", "_latched_status", "_loaded", "_lsb", "_null", "_offset", "_origin_ns",
        "_read_msb", "_register", "_reload_at", "_running", "_written", "gate",
    )  # fmt: skip

    def __init__(self, now_ns: int, *, gate: bool) -> None:
        self._count = self._held = 0  # loaded last; pulses counted when counting stopped, while it does
        self._running = False
        self.reset(now_ns, gate=gate)

    def reset(self, now_ns: int, *, gate: bool) -> None:
        """QEMU-COMPAT: after power-on a square wave of the longest period; hardware says nothing about it."""
        self.gate = True
        self.write_control(_POWER_ON_CONTROL, now_ns)
        self._load(now_ns)
        self.set_gate(gate, now_ns)

    # -- what the ports do ---------------------------------------------------------------------------------

    @property
    def mode(self) -> int:
        """0-5: bit 2 does not count for modes 2 and 3."""
        mode = self._control >> CONTROL_MODE_SHIFT & 7
        return mode & 3 if mode & 2 else mode

    def write_control(self, control: int, now_ns: int) -> None:
        """A control word: everything starts anew, and counting waits for a count."""
        if self._running:
            self._stop(now_ns)
        self._control = control & CONTROL_STORED
        self._latch: list[int] = []  # bytes of a latched count not read yet
        self._latched_status: int | None = None
        self._read_msb = False
        self._lsb: int | None = None  # the first byte of two, written already
        self._register = 0
        self._written = False  # a count has come since the control word
        self._null = True  # the count written is not in the counting element yet
        self._loaded = False  # the counting element holds a count of this mode
        self._reload_at: int | None = None  # pulse at which a periodic mode takes the new count
        self._origin_ns = now_ns
        self._offset = 0

    def write(self, value: int, now_ns: int) -> None:
        """A byte of a count."""
        self._settle(now_ns)
        rw = self._control >> CONTROL_RW_SHIFT
        if rw == RW_BOTH and self._lsb is None:
            self._lsb = value
            if self.mode == MODE_TERMINAL_COUNT:  # counting stops and OUT goes low
                self._stop(now_ns)
                self._loaded = False
            return
        if rw == RW_BOTH:
            self._register = value << 8 | (self._lsb or 0)
            self._lsb = None
        else:
            self._register = value << 8 if rw == RW_MSB else value
        self._written = self._null = True
        mode = self.mode
        if mode in _TRIGGERED:
            return
        if mode in _PERIODIC and self._loaded:
            if self._running:
                self._reload_at = self._period_end(self._pulses(now_ns))
            return
        self._load(now_ns)

    def read(self, now_ns: int) -> int:
        """A byte of the status or count, latched or live."""
        if self._latched_status is not None:
            status, self._latched_status = self._latched_status, None
            return status
        if self._latch:
            return self._latch.pop(0)
        value = self.value(now_ns)
        rw = self._control >> CONTROL_RW_SHIFT
        msb = rw == RW_MSB or (rw == RW_BOTH and self._read_msb)
        self._read_msb = rw == RW_BOTH and not self._read_msb
        return value >> 8 if msb else value & 0xFF

    def latch_count(self, now_ns: int) -> None:
        """Hold the count for the next reads; without effect while one is held."""
        if not self._latch:
            value = self.value(now_ns)
            rw = self._control >> CONTROL_RW_SHIFT
            low, high = value & 0xFF, value >> 8
            self._latch = [low, high] if rw == RW_BOTH else [high if rw == RW_MSB else low]

    def latch_status(self, now_ns: int) -> None:
        """Hold the status for the next read; without effect while one is held."""
        if self._latched_status is None:
            out = self.out(now_ns)  # first: it may take a count that was waiting
            self._latched_status = self._control | (STATUS_OUT if out else 0) | (STATUS_NULL_COUNT if self._null else 0)

    def set_gate(self, level: bool, now_ns: int) -> None:
        """The GATE input changes."""
        if level == self.gate:
            return
        self._settle(now_ns)
        self.gate = level
        mode = self.mode
        if mode in _TRIGGERED:
            if level and self._written:
                self._load(now_ns)
        elif not level:
            self._stop(now_ns)
        elif self._loaded and mode in _PERIODIC:
            self._load(now_ns)
        elif self._loaded:
            self._run(now_ns, self._held)

    # -- counting ------------------------------------------------------------------------------------------

    def _modulus(self) -> int:
        return _BCD_MODULUS if self._control & CONTROL_BCD else _BINARY_MODULUS

    def _load(self, now_ns: int) -> None:
        """The count goes into the counting element."""
        self._take_register()
        self._loaded = True
        self._reload_at = None
        self._running = False
        self._held = 0
        if self.gate or self.mode in _TRIGGERED:
            self._run(now_ns, 0)

    def _take_register(self) -> None:
        register = self._register
        self._count = (_from_bcd(register) if self._control & CONTROL_BCD else register) or self._modulus()
        self._null = False

    def _run(self, now_ns: int, pulses: int) -> None:
        self._running = True
        self._origin_ns, self._offset = now_ns, pulses

    def _stop(self, now_ns: int) -> None:
        self._held = self._pulses(now_ns)
        self._running = False
        self._reload_at = None  # the gate's next edge loads it

    def _pulses(self, now_ns: int) -> int:
        """CLK pulses since the counting element was loaded."""
        if not self._running:
            return self._held
        return (now_ns - self._origin_ns) * FREQUENCY_HZ // NS_PER_S + self._offset

    def _high(self) -> int:
        """Pulses of a square wave's high half."""
        return (self._count + 1) // 2

    def _period_end(self, pulses: int) -> int:
        """The pulse at which a periodic mode takes a new count: the end of the period, or of the half of one."""
        start, phase = pulses - pulses % self._count, pulses % self._count
        if self.mode == MODE_SQUARE and phase < self._high():
            return start + self._high()
        return start + self._count

    def _settle(self, now_ns: int) -> None:
        """Take the new count of a periodic mode if its time has come."""
        due = self._reload_at
        if due is None or self._pulses(now_ns) < due:
            return
        starts_low = self.mode == MODE_SQUARE and due % self._count and self._count > 1
        self._reload_at = None
        self._take_register()
        self._offset += (self._high() if starts_low else 0) - due

    # -- what is seen --------------------------------------------------------------------------------------

    def value(self, now_ns: int) -> int:
        """The counting element, as it is read."""
        self._settle(now_ns)
        pulses, count, mode = self._pulses(now_ns), self._count, self.mode
        if mode == MODE_RATE and self._loaded:
            value = count - pulses % count
        elif mode == MODE_SQUARE and self._loaded:
            phase = pulses % count
            value = count - count % 2 - 2 * (phase if phase < self._high() else phase - self._high())
        else:
            value = count - pulses
        value %= self._modulus()
        return _to_bcd(value) if self._control & CONTROL_BCD else value

    def out(self, now_ns: int) -> int:
        """The OUT pin."""
        self._settle(now_ns)
        mode = self.mode
        if not self._loaded or (mode in _PERIODIC and not self._running):
            return 0 if mode == MODE_TERMINAL_COUNT else 1
        pulses, count = self._pulses(now_ns), self._count
        if mode <= MODE_ONE_SHOT:
            return 1 if pulses >= count else 0
        if mode == MODE_RATE:
            return 0 if pulses % count == count - 1 and count > 1 else 1
        if mode == MODE_SQUARE:
            return 1 if pulses % count < self._high() else 0
        return 0 if pulses == count else 1

    def next_edge_ns(self, now_ns: int) -> int | None:
        """The first time after ``now_ns`` at which OUT changes (or a new count is taken), None: never by itself."""
        self._settle(now_ns)
        if not (self._loaded and self._running):
            return None
        pulses, count, mode = self._pulses(now_ns), self._count, self.mode
        due: int | None
        if mode in _PERIODIC:
            due = self._next_periodic(pulses)
        elif pulses < count:
            due = count
        elif pulses == count and mode >= MODE_SOFTWARE_STROBE:
            due = count + 1
        else:
            due = None
        return None if due is None else self._time_of(due)

    def _next_periodic(self, pulses: int) -> int | None:
        count = self._count
        if count == 1:  # not a count of these modes: OUT stays high until there is another
            return self._reload_at
        start, phase = pulses - pulses % count, pulses % count
        falls = self._high() if self.mode == MODE_SQUARE else count - 1
        return start + (falls if phase < falls else count)

    def _time_of(self, pulses: int) -> int:
        """The first nanosecond at which ``pulses`` have been counted."""
        return self._origin_ns - (self._offset - pulses) * NS_PER_S // FREQUENCY_HZ
