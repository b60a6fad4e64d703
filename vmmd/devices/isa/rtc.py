# SPDX-License-Identifier: Apache-2.0
"""Motorola MC146818 real-time clock and 128 bytes of CMOS RAM, ports 70h/71h, interrupt 8.

Data sheet: MC146818 (Motorola, 1984); century byte 32h as the ACPI FADT tells. Implemented: time and calendar in BCD
and binary, 12 and 24 hours, SET and divider reset, UIP, alarm, periodic and update-ended interrupts. Nothing ticks
while nobody needs it: flags follow from the time when they are looked at, and one timer wakes the chip when an
enabled interrupt is due. Not implemented: daylight saving (DSE), square-wave output.

Guest time = reference clock + offset. The guest sets the offset by writing the time; RTC_CHANGE tells it. UIP is
shown for the last 244 µs of a second (8 cycles of the oscillator); the update itself takes no time. The divider chain
of the periodic interrupt runs on virtual time from the start, or from the end of the last divider reset. Edges come to
the nanosecond where the reference is the virtual clock (``-rtc clock=vm``). QEMU-COMPAT: port 70h reads FFh, index
37h is the century byte too, UIP as described, divider settings 3-5 (tests of the chip) stop the clock, and another
rate counts its first period from the last tick of the old one (hardware: from where the chain is).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from vmmd.core.address_space import IoRange
from vmmd.core.device import Device
from vmmd.core.events import RtcChangeEvent
from vmmd.core.props import enum_type, prop
from vmmd.core.trace_events import RTC_READ, RTC_WRITE
from vmmd.core.tree import Property
from vmmd.devices.isa.rtc_time import Alarm, Civil, decode, decode_hour, encode, encode_hour, from_seconds, to_seconds
from vmmd.units import NS_PER_S

if TYPE_CHECKING:
    import datetime
    from collections.abc import Callable, Iterable

    from vmmd.core.device import DeviceContext, ResetKind
    from vmmd.core.props import PropSet

PORT_INDEX = 0x70
RTC_GSI = 8
CMOS_BYTES = 128
INDEX_MASK = 0x7F  # bit 7 of the index port gates NMI

REG_SECONDS = 0x00
REG_SECONDS_ALARM = 0x01
REG_MINUTES = 0x02
REG_MINUTES_ALARM = 0x03
REG_HOURS = 0x04
REG_HOURS_ALARM = 0x05
REG_WEEKDAY = 0x06
REG_DAY = 0x07
REG_MONTH = 0x08
REG_YEAR = 0x09
REG_A = 0x0A
REG_B = 0x0B
REG_C = 0x0C
REG_D = 0x0D
REG_CENTURY = 0x32
REG_CENTURY_PS2 = 0x37
TIME_REGISTERS = frozenset(
    {REG_SECONDS, REG_MINUTES, REG_HOURS, REG_WEEKDAY, REG_DAY, REG_MONTH, REG_YEAR, REG_CENTURY}
)

A_UPDATE_IN_PROGRESS = 0x80
A_DIVIDER = 0x70
A_DIVIDER_RUNS = 0x20  # up to 010; 110 and 111: the divider chain is held
A_RATE = 0x0F
A_RESET = 0x26  # 32.768 kHz, 1.024 kHz periodic

B_SET = 0x80
B_PERIODIC = 0x40
B_ALARM = 0x20
B_UPDATE = 0x10
B_SQUARE_WAVE = 0x08
B_24H = 0x02
B_INTERRUPTS = B_PERIODIC | B_ALARM | B_UPDATE  # same bits as the flags in register C

C_INTERRUPT = 0x80
D_VALID = 0x80

OSCILLATOR_HZ = 32_768
UIP_NS = 8 * NS_PER_S // OSCILLATOR_HZ  # ahead of the update
DIVIDER_START_NS = 500_000_000  # first update after the divider is released
#: an update is never waited for less than this by a reference clock that may disagree a little with the virtual one
MIN_TIMER_NS = 50_000
#: slew: missed ticks come at this part of their period, once the guest has acknowledged one
CATCH_UP = 4


class Mc146818Rtc(Device):
    """The clock. The machine sets ``start`` and ``reference`` before ``plug``."""

    type_name = "mc146818rtc"
    description = "MC146818 real-time clock"
    bus_type = "ISA"
    #: time and memory have a battery
    KEPT_AT_RESET = (
        "_chain_origin_ns",
        "_cmos",
        "_offset_ns",
        "_period_base",
        "_seen_period",
        "_seen_second",
        "_weekday_shift",
    )

    class Props(Device.Props):
        """Policy of the periodic interrupt."""

        lost_tick_policy = prop(
            enum_type("LostTickPolicy", "discard", "slew"),
            "discard",
            "what becomes of periodic interrupts that the guest did not take in time",
            wire="lost_tick_policy",
        )

    props: Mc146818Rtc.Props

    def __init__(self, props: PropSet, ctx: DeviceContext, id_: str | None = None) -> None:
        super().__init__(props, ctx, id_)
        #: ``-rtc base=``: "utc", "localtime", or the date and time (UTC when naive) at which the machine starts
        self.start: str | datetime.datetime = "utc"
        #: ``-rtc clock=``: nanoseconds of the clock that drives the time; None: the host's wall clock
        self.reference: Callable[[], int] | None = None
        self._cmos = bytearray(CMOS_BYTES)
        self._cmos[REG_A] = A_RESET
        self._cmos[REG_B] = B_24H
        self._cmos[REG_D] = D_VALID
        self._index = 0
        self._flags = 0  # of register C, without C_INTERRUPT
        self._base_offset_ns = 0
        self._offset_ns = 0
        self._weekday_shift = 0
        self._chain_origin_ns = 0  # virtual time at which the divider chain was started
        self._period_base = 0  # cycles of the chain from which the periods are counted
        self._seen_second = 0
        self._seen_period = 0
        self._backlog = 0  # periodic ticks to inject later (slew)
        self._catch_up_ns = 0  # when the next of them is due, virtual time
        self._timer = ctx.clock.timer(self._timer_fired)
        self._irq = ctx.irqs.line(RTC_GSI)
        self._connected = True

    # -- life ----------------------------------------------------------------------------------------------

    def realize(self) -> None:
        host_ns = self.ctx.clock.host_ns()
        if self.reference is not None:
            host_ns -= host_ns % NS_PER_S  # a clock of its own starts with a whole second
        self._base_offset_ns = self._offset_ns = self._start_ns(host_ns) - self._reference_ns()
        self._chain_origin_ns = self.ctx.clock.now_ns()
        self._seen_second = self._now_ns() // NS_PER_S
        self._seen_period = self._period_index()
        self.claim_pio(IoRange(PORT_INDEX, 2, self._port_read, self._port_write, name="rtc", max_width=1))
        self.on_undo(self._stop)

    def _stop(self) -> None:
        self._timer.cancel()
        self._irq.lower()

    def _start_ns(self, host_ns: int) -> int:
        """The time to start from, nanoseconds since 1970 on the guest's clock face."""
        start = self.start
        if start == "utc":
            return host_ns
        if isinstance(start, str):
            return host_ns + time.localtime(host_ns // NS_PER_S).tm_gmtoff * NS_PER_S
        zone = start.utcoffset()
        shift = 0 if zone is None else zone.days * 86_400 + zone.seconds
        civil = Civil(start.year, start.month, start.day, start.hour, start.minute, start.second, 1)
        return (to_seconds(civil) - shift) * NS_PER_S + start.microsecond * 1000

    def reset(self, kind: ResetKind) -> None:
        """RESET# clears interrupt enables and flags; time and CMOS RAM run on from the battery."""
        self._collect()
        self._cmos[REG_B] &= ~(B_INTERRUPTS | B_SQUARE_WAVE)
        self._flags = 0
        self._backlog = 0
        self._index = 0
        self._update()

    # -- what the machine uses -----------------------------------------------------------------------------

    def connect(self, on: bool) -> None:
        """Let it drive interrupt 8, or not: the HPET takes its place (legacy replacement)."""
        self._connected = on
        self._update()

    def cmos_set(self, index: int, value: int) -> None:
        """Store a byte of CMOS RAM (memory sizes, boot order …) for the firmware."""
        if not 0 <= index < CMOS_BYTES or index in TIME_REGISTERS or index <= REG_D:
            raise ValueError(f"CMOS byte {index:#x} is not RAM")
        self._cmos[index] = value & 0xFF

    def cmos_get(self, index: int) -> int:
        """A byte as the guest would read it, without side effects."""
        if index in TIME_REGISTERS and not self._frozen:
            return self._time_registers()[index]
        return self._cmos[index & INDEX_MASK]

    def guest_civil(self) -> Civil:
        """The time on the guest's clock face (``qom-get date``)."""
        return from_seconds(self._now_ns() // NS_PER_S)

    def extra_properties(self) -> Iterable[Property]:
        yield Property("date", "struct tm", self._date)

    def _date(self) -> dict[str, int]:
        """``guest_civil`` as C's struct tm."""
        with self.ctx.lock:
            now = self.guest_civil()
        return {
            "tm_year": now.year - 1900,
            "tm_mon": now.month - 1,
            "tm_mday": now.day,
            "tm_hour": now.hour,
            "tm_min": now.minute,
            "tm_sec": now.second,
        }

    # -- time ----------------------------------------------------------------------------------------------

    def _reference_ns(self) -> int:
        return self.ctx.clock.host_ns() if self.reference is None else self.reference()

    def _now_ns(self) -> int:
        return self._reference_ns() + self._offset_ns

    @property
    def _frozen(self) -> bool:
        """True while the time registers stand still: SET, or the divider is held."""
        return bool(self._cmos[REG_B] & B_SET) or self._divider_held

    @property
    def _divider_held(self) -> bool:
        return self._cmos[REG_A] & A_DIVIDER > A_DIVIDER_RUNS

    def _time_registers(self) -> dict[int, int]:
        """The time registers as they would read now if not frozen."""
        control = self._cmos[REG_B]
        now = from_seconds(self._now_ns() // NS_PER_S)
        return {
            REG_SECONDS: encode(now.second, control),
            REG_MINUTES: encode(now.minute, control),
            REG_HOURS: encode_hour(now.hour, control),
            REG_WEEKDAY: encode((now.weekday - 1 + self._weekday_shift) % 7 + 1, control),
            REG_DAY: encode(now.day, control),
            REG_MONTH: encode(now.month, control),
            REG_YEAR: encode(now.year % 100, control),
            REG_CENTURY: encode(now.year // 100 % 100, control),
        }

    def _latch_time(self) -> None:
        """Copy the running time into the registers."""
        for index, value in self._time_registers().items():
            self._cmos[index] = value

    def _set_time(self) -> None:
        """Take the time from the registers; where we are within the second stays as it is."""
        cmos, control = self._cmos, self._cmos[REG_B]
        seconds = to_seconds(
            Civil(
                decode(cmos[REG_CENTURY], control) * 100 + decode(cmos[REG_YEAR], control),
                decode(cmos[REG_MONTH], control),
                decode(cmos[REG_DAY], control),
                decode_hour(cmos[REG_HOURS], control),
                decode(cmos[REG_MINUTES], control),
                decode(cmos[REG_SECONDS], control),
                weekday=1,
            )
        )
        weekday = decode(cmos[REG_WEEKDAY], control)
        self._weekday_shift = (weekday - from_seconds(seconds).weekday) % 7
        now_ns = self._now_ns()
        change_ns = (seconds - now_ns // NS_PER_S) * NS_PER_S
        self._seen_second = seconds
        self._offset_ns += change_ns
        if change_ns:
            offset = (self._offset_ns - self._base_offset_ns + NS_PER_S // 2) // NS_PER_S
            self.ctx.events.emit(RtcChangeEvent(offset, self.qom_path))

    # -- flags and interrupt -------------------------------------------------------------------------------

    def _period_cycles(self) -> int:
        """Oscillator cycles of the periodic interrupt; 0: none."""
        rate = self._cmos[REG_A] & A_RATE
        if rate == 0 or self._divider_held:
            return 0
        return 1 << (rate + 6 if rate <= 2 else rate - 1)

    def _period_index(self) -> int:
        cycles = self._period_cycles()
        if not cycles:
            return 0
        chain = (self.ctx.clock.now_ns() - self._chain_origin_ns) * OSCILLATOR_HZ // NS_PER_S
        return (chain - self._period_base) // cycles

    def _collect(self) -> None:
        """Bring the flags up to the present time."""
        if not self._frozen:
            second = self._now_ns() // NS_PER_S
            if second > self._seen_second:
                self._flags |= B_UPDATE
                alarm = self._alarm().next_after(self._seen_second)
                if alarm is not None and alarm <= second:
                    self._flags |= B_ALARM
            self._seen_second = second  # also when the reference clock was set back
        index = self._period_index()
        ticks = index - self._seen_period
        self._seen_period = index
        if ticks > 0:
            self._count_ticks(ticks)
        if self._backlog and not self._flags & B_PERIODIC and self.ctx.clock.now_ns() >= self._catch_up_ns:
            self._backlog -= 1
            self._flags |= B_PERIODIC

    def _count_ticks(self, ticks: int) -> None:
        slew = self._cmos[REG_B] & B_PERIODIC and self.props.lost_tick_policy == "slew"
        if slew:
            self._backlog += ticks if self._flags & B_PERIODIC else ticks - 1
        self._flags |= B_PERIODIC

    def forget_lost_ticks(self) -> None:
        self._collect()  # those that nobody has counted yet are lost too
        self._backlog = 0
        self._update()

    def _alarm(self) -> Alarm:
        cmos = self._cmos
        return Alarm.from_registers(
            cmos[REG_HOURS_ALARM], cmos[REG_MINUTES_ALARM], cmos[REG_SECONDS_ALARM], cmos[REG_B]
        )

    def _update(self) -> None:
        """Drive the interrupt and set the timer for the next one."""
        enabled = self._cmos[REG_B] & B_INTERRUPTS
        if self._flags & enabled:
            self._irq.set(1 if self._connected else 0)
            self._timer.cancel()
            return
        self._irq.lower()
        due_ns = self._next_event_ns(enabled)
        if due_ns is None:
            self._timer.cancel()
        else:
            self._timer.arm(due_ns)

    def _next_event_ns(self, enabled: int) -> int | None:
        """The virtual time at which an enabled interrupt is due, None when there is none."""
        due: list[int] = []
        if enabled & B_PERIODIC and (cycles := self._period_cycles()):
            chain = self._period_base + (self._seen_period + 1) * cycles
            due.append(self._chain_origin_ns - -chain * NS_PER_S // OSCILLATOR_HZ)
            if self._backlog:
                due.append(self._catch_up_ns)
        if not self._frozen:
            seconds = [self._seen_second + 1] if enabled & B_UPDATE else []
            if enabled & B_ALARM and (alarm := self._alarm().next_after(self._seen_second)) is not None:
                seconds.append(alarm)
            if seconds:
                due.append(self._time_of(min(seconds)))
        return min(due) if due else None

    def _time_of(self, second: int) -> int:
        """The virtual time at which the guest's clock comes to ``second``, as far as can be known."""
        virtual_ns = self.ctx.clock.now_ns
        delay_ns = second * NS_PER_S - self._now_ns()
        return virtual_ns() + (delay_ns if self.reference == virtual_ns else max(delay_ns, MIN_TIMER_NS))

    def _timer_fired(self) -> None:
        self._collect()
        self._update()

    # -- ports ---------------------------------------------------------------------------------------------

    def _port_read(self, offset: int, size: int) -> int:
        if offset == 0:
            return 0xFF
        index = REG_CENTURY if self._index == REG_CENTURY_PS2 else self._index
        value = self._read_register(index)
        if RTC_READ.on:
            RTC_READ(index, value)
        return value

    def _read_register(self, index: int) -> int:
        if index == REG_A:
            return self._cmos[REG_A] | (A_UPDATE_IN_PROGRESS if self._updating() else 0)
        if index == REG_C:
            return self._read_flags()
        return self.cmos_get(index)

    def _updating(self) -> bool:
        return not self._frozen and self._now_ns() % NS_PER_S >= NS_PER_S - UIP_NS

    def _read_flags(self) -> int:
        """Register C: reading acknowledges."""
        self._collect()
        flags = self._flags
        if flags & self._cmos[REG_B] & B_INTERRUPTS:
            flags |= C_INTERRUPT
        self._flags = 0
        if self._backlog and flags & B_PERIODIC:
            cycles = self._period_cycles()
            self._catch_up_ns = self.ctx.clock.now_ns() + cycles * NS_PER_S // OSCILLATOR_HZ // CATCH_UP
        self._update()
        return flags

    def _port_write(self, offset: int, size: int, value: int) -> None:
        if offset == 0:
            self._index = value & INDEX_MASK
            return
        index = REG_CENTURY if self._index == REG_CENTURY_PS2 else self._index
        if RTC_WRITE.on:
            RTC_WRITE(index, value)
        if index == REG_A:
            self._write_a(value)
        elif index == REG_B:
            self._write_b(value)
        elif index in TIME_REGISTERS:
            self._write_time(index, value)
        elif index in (REG_SECONDS_ALARM, REG_MINUTES_ALARM, REG_HOURS_ALARM):
            self._collect()
            self._cmos[index] = value
            self._update()
        elif index not in (REG_C, REG_D):
            self._cmos[index] = value

    def _write_time(self, index: int, value: int) -> None:
        if self._frozen:
            self._cmos[index] = value
            return
        self._collect()
        self._latch_time()
        self._cmos[index] = value
        self._set_time()
        self._update()

    def _write_a(self, value: int) -> None:
        old_cycles = self._period_cycles()
        self._change_control(REG_A, value & ~A_UPDATE_IN_PROGRESS & 0xFF)
        if self._period_cycles() != old_cycles:
            self._period_base += self._seen_period * old_cycles
            self._seen_period = self._period_index()
            self._backlog = 0
        self._update()

    def _write_b(self, value: int) -> None:
        if value & B_SET:
            value &= ~B_UPDATE  # SET clears the update-ended enable
        if not value & B_PERIODIC:
            self._backlog = 0
        self._change_control(REG_B, value)
        self._update()

    def _change_control(self, register: int, value: int) -> None:
        """Store register A or B; the time stops or goes on where SET or the divider reset begins or ends."""
        self._collect()
        was_frozen, was_held = self._frozen, self._divider_held
        if not was_frozen:
            self._latch_time()
        self._cmos[register] = value
        if was_held and not self._divider_held:
            self._chain_origin_ns = self.ctx.clock.now_ns()
            self._period_base = self._seen_period = 0
            self._offset_ns += NS_PER_S - DIVIDER_START_NS - self._now_ns() % NS_PER_S
        if was_frozen and not self._frozen:
            self._set_time()
