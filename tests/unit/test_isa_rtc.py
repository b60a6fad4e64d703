# SPDX-License-Identifier: Apache-2.0
"""MC146818: calendar, formats, SET and divider, UIP, interrupts, slew, CMOS RAM."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.chipset import pound
from tests.unit.fakes import FakeMachine, make_context, props
from vmmd.core.device import ResetKind
from vmmd.core.events import RtcChangeEvent
from vmmd.devices.isa.rtc import Mc146818Rtc
from vmmd.devices.isa.rtc_time import Alarm, Civil, decode_hour, encode_hour, from_seconds, to_seconds

S = 1_000_000_000
UTC = datetime.UTC
START = datetime.datetime(2024, 2, 28, 23, 59, 58, tzinfo=UTC)
IRQ = 8
BINARY_24H, BCD_24H = 0x06, 0x02
PERIODIC, ALARM, UPDATE, SET = 0x40, 0x20, 0x10, 0x80


class Rig:
    """A clock at ``start`` and port helpers."""

    def __init__(self, start: object = "utc", host: datetime.datetime = START, **given: str) -> None:
        self.machine: FakeMachine = make_context(host_ns=int(host.timestamp()) * S)
        self.rtc = Mc146818Rtc(props(Mc146818Rtc, **given), self.machine.ctx)
        self.rtc.start = start  # type: ignore[assignment]
        self.rtc.qom_path = "/machine/unattached/device[9]/rtc"
        self.rtc.plug()
        self.clock = self.machine.clock

    def read(self, index: int) -> int:
        self.machine.pio.write(0x70, 1, index)
        return self.machine.pio.read(0x71, 1)

    def write(self, index: int, value: int) -> None:
        self.machine.pio.write(0x70, 1, index)
        self.machine.pio.write(0x71, 1, value)

    def time(self) -> tuple[int, ...]:
        """century, year, month, day, weekday, hours, minutes, seconds: raw registers."""
        return tuple(self.read(index) for index in (0x32, 9, 8, 7, 6, 4, 2, 0))

    @property
    def level(self) -> int:
        return self.machine.interrupts.levels.get(IRQ, 0)


def test_bcd_time_over_a_leap_day() -> None:
    rig = Rig()
    assert rig.time() == (0x20, 0x24, 0x02, 0x28, 4, 0x23, 0x59, 0x58)
    rig.clock.advance(2 * S)
    assert rig.time() == (0x20, 0x24, 0x02, 0x29, 5, 0, 0, 0)
    rig.clock.advance(86400 * S)
    assert rig.time() == (0x20, 0x24, 0x03, 0x01, 6, 0, 0, 0)


def test_binary_and_12_hour_formats() -> None:
    rig = Rig()
    rig.write(0x0B, BINARY_24H)
    assert rig.time() == (20, 24, 2, 28, 4, 23, 59, 58)
    rig.write(0x0B, 0x04)
    assert rig.read(4) == 0x80 | 11
    rig.write(0x0B, 0x00)
    assert rig.read(4) == 0x80 | 0x11
    rig.clock.advance(2 * S)
    assert rig.read(4) == 0x12  # midnight is 12 AM


@pytest.mark.parametrize("control", [0, 2, 4, 6])
def test_hours_round_trip_in_every_format(control: int) -> None:
    assert [decode_hour(encode_hour(hour, control), control) for hour in range(24)] == list(range(24))


@given(st.datetimes(datetime.datetime(1, 1, 1), datetime.datetime(9999, 12, 31)))
def test_calendar_agrees_with_datetime(moment: datetime.datetime) -> None:
    seconds = (moment.replace(microsecond=0) - datetime.datetime(1970, 1, 1)) // datetime.timedelta(seconds=1)
    civil = from_seconds(seconds)
    assert civil[:6] == moment.timetuple()[:6]
    assert civil.weekday == moment.isoweekday() % 7 + 1
    assert to_seconds(civil) == seconds


@pytest.mark.parametrize("month", [0, 13, 45, 165])
def test_calendar_carries_impossible_months(month: int) -> None:
    assert to_seconds(Civil(2024, month, 1, 0, 0, 0, 1)) == to_seconds(
        Civil(2024 + (month - 1) // 12, (month - 1) % 12 + 1, 1, 0, 0, 0, 1)
    )


def test_start_from_a_date_and_from_localtime(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    rig = Rig(start=datetime.datetime(2006, 6, 17, 16, 1, 21))
    assert rig.time() == (0x20, 0x06, 0x06, 0x17, 7, 0x16, 0x01, 0x21)
    rig.clock.advance(S)
    assert rig.read(0) == 0x22
    monkeypatch.setenv("TZ", "XYZ-3:30")
    time.tzset()
    try:
        assert Rig(start="localtime").time()[3:] == (0x29, 5, 0x03, 0x29, 0x58)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_reference_clock_can_be_another() -> None:
    machine = make_context(host_ns=int(START.timestamp()) * S)
    rtc = Mc146818Rtc(props(Mc146818Rtc), machine.ctx)
    standing = [5 * S]
    rtc.reference = lambda: standing[0]
    rtc.plug()
    machine.clock.advance(3600 * S)
    assert rtc.guest_civil()[3:6] == (23, 59, 58)
    standing[0] += S
    assert rtc.guest_civil()[3:6] == (23, 59, 59)


def test_set_bit_freezes_then_takes_the_new_time_and_tells_the_change() -> None:
    rig = Rig()
    rig.clock.advance(S // 4)
    rig.write(0x0B, SET | UPDATE | BCD_24H)
    assert rig.read(0x0B) == SET | BCD_24H  # SET clears the update-ended enable
    for index, value in ((0, 0x00), (2, 0x30), (4, 0x12), (7, 0x01), (8, 0x01), (9, 0x25), (0x32, 0x20)):
        rig.write(index, value)
    rig.clock.advance(S // 2)
    assert rig.read(0) == 0
    rig.write(0x0B, BCD_24H)
    assert rig.time()[:4] == (0x20, 0x25, 0x01, 0x01)
    assert rig.time()[5:] == (0x12, 0x30, 0x00)
    rig.clock.advance(S // 4 - 1)
    assert rig.read(0) == 0
    rig.clock.advance(1)  # the phase of the second was kept
    assert rig.read(0) == 1
    new = datetime.datetime(2025, 1, 1, 12, 30, 0, tzinfo=UTC)
    expected = int((new - START).total_seconds())
    assert rig.machine.events.of(RtcChangeEvent) == [RtcChangeEvent(expected, rig.rtc.qom_path)]


def test_set_and_clear_without_change_tells_nothing() -> None:
    rig = Rig()
    rig.clock.advance(S // 3)
    rig.write(0x0B, SET | BCD_24H)
    rig.write(0x0B, BCD_24H)
    assert rig.machine.events.emitted == []
    rig.clock.advance(2 * S // 3 + 1)
    assert rig.read(0) == 0x59


def test_writing_a_running_register_sets_the_time() -> None:
    rig = Rig()
    rig.write(2, 0x30)
    assert rig.time()[5:] == (0x23, 0x30, 0x58)
    assert rig.machine.events.of(RtcChangeEvent)[0].offset == -29 * 60


def test_weekday_is_a_counter_of_its_own() -> None:
    rig = Rig()
    rig.write(6, 1)
    assert rig.read(6) == 1
    rig.clock.advance(86400 * S)
    assert rig.read(6) == 2
    assert rig.machine.events.emitted == []


def test_divider_reset_holds_and_starts_half_a_second_early() -> None:
    rig = Rig()
    rig.write(0x0A, 0x70)
    rig.clock.advance(10 * S)
    assert rig.read(0) == 0x58
    rig.write(0x0A, 0x26)
    rig.clock.advance(S // 2 - 1)
    assert rig.read(0) == 0x58
    rig.clock.advance(1)
    assert rig.read(0) == 0x59


def test_uip_in_the_last_part_of_a_second() -> None:
    rig = Rig()
    rig.clock.advance(S - 300_000)
    assert rig.read(0x0A) == 0x26
    rig.clock.advance(100_000)
    assert rig.read(0x0A) == 0xA6
    rig.write(0x0B, SET | BCD_24H)
    assert rig.read(0x0A) == 0x26
    rig.write(0x0A, 0xA6)  # UIP cannot be written
    assert rig.read(0x0A) == 0x26


def test_update_interrupt_each_second() -> None:
    rig = Rig()
    rig.read(0x0C)
    rig.write(0x0B, UPDATE | BCD_24H)
    for _ in range(3):
        rig.clock.advance(S)
        assert rig.level == 1
        assert rig.read(0x0C) & 0x90 == 0x90
        assert rig.level == 0
        assert rig.read(0x0C) & 0x90 == 0
    assert rig.machine.interrupts.raised(IRQ) == 3


def test_flags_without_interrupts_are_polled_and_need_no_timer() -> None:
    rig = Rig()
    rig.clock.advance(S)
    assert rig.read(0x0C) == UPDATE | PERIODIC
    assert rig.clock.next_deadline() is None
    assert rig.level == 0


def test_periodic_interrupt_at_1024_hz() -> None:
    rig = Rig()
    rig.write(0x0B, PERIODIC | BCD_24H)
    rig.read(0x0C)
    for _ in range(1024):
        deadline = rig.clock.next_deadline()
        assert deadline is not None
        rig.clock.advance(deadline - rig.clock.now_ns())
        assert rig.read(0x0C) & 0xC0 == 0xC0
    assert S - 2_000_000 < rig.clock.now_ns() <= S


@pytest.mark.parametrize(("rate", "cycles"), [(1, 128), (2, 256), (3, 4), (6, 32), (15, 16384)])
def test_periodic_rates(rate: int, cycles: int) -> None:
    rig = Rig()
    rig.write(0x0A, 0x20 | rate)
    rig.write(0x0B, PERIODIC | BCD_24H)
    rig.read(0x0C)
    deadline = rig.clock.next_deadline()
    assert deadline is not None
    assert abs(deadline - max(cycles * S // 32768, 50_000)) <= 1


def test_lost_ticks_are_discarded_by_default() -> None:
    rig = Rig()
    rig.write(0x0B, PERIODIC | BCD_24H)
    rig.read(0x0C)
    rig.clock.advance(S)
    seen = 0
    for _ in range(100):  # 100 x 50 µs: 5 ms
        seen += rig.read(0x0C) >> 7
        rig.clock.advance(50_000)
    assert seen <= 7


def test_slew_delivers_every_tick_that_the_guest_missed() -> None:
    rig = Rig(lost_tick_policy="slew")
    rig.write(0x0B, PERIODIC | BCD_24H)
    rig.read(0x0C)
    start = rig.clock.now_ns()
    rig.clock.advance(S // 4)  # the guest does not listen: 256 ticks
    taken = 0
    for _ in range(2000):
        rig.clock.advance(250_000)
        if rig.level:
            taken += rig.read(0x0C) >> 7
    elapsed = rig.clock.now_ns() - start
    assert abs(taken - elapsed * 1024 // S) <= 1


def test_reset_drops_the_ticks_that_slew_owes() -> None:
    rig = Rig(lost_tick_policy="slew")
    rig.write(0x0B, PERIODIC | BCD_24H)
    rig.read(0x0C)
    rig.clock.advance(S)
    rig.read(0x0C)  # about a thousand are owed
    rig.rtc.reset(ResetKind.COLD)
    rig.write(0x0B, PERIODIC | BCD_24H)
    rig.read(0x0C)
    before = rig.machine.interrupts.raised(IRQ)
    for _ in range(1000):  # 0.1 s
        rig.clock.advance(100_000)
        rig.read(0x0C)
    assert 101 <= rig.machine.interrupts.raised(IRQ) - before <= 103


def test_ticks_that_are_owed_can_be_forgotten() -> None:
    """rtc-reset-reinjection."""
    rig = Rig(lost_tick_policy="slew")
    rig.write(0x0B, PERIODIC | BCD_24H)
    rig.read(0x0C)
    rig.clock.advance(S)  # about a thousand are owed
    rig.rtc.forget_lost_ticks()
    taken = rig.read(0x0C) >> 7  # the one that was delivered
    for _ in range(1000):  # 0.1 s
        rig.clock.advance(100_000)
        if rig.level:
            taken += rig.read(0x0C) >> 7
    assert 102 <= taken <= 104


def test_alarm_at_a_time_and_with_wild_cards() -> None:
    rig = Rig()
    for index, value in ((1, 0x00), (3, 0x00), (5, 0x00)):  # 00:00:00
        rig.write(index, value)
    rig.read(0x0C)
    rig.write(0x0B, ALARM | BCD_24H)
    rig.clock.advance(2 * S - 1)
    assert rig.level == 0
    rig.clock.advance(1 + 50_000)
    assert rig.level == 1
    assert rig.read(0x0C) & 0xA0 == 0xA0
    for index, value in ((1, 0x30), (3, 0xFF), (5, 0xC0)):  # second 30 of every minute
        rig.write(index, value)
    before = rig.machine.interrupts.raised(IRQ)
    for _ in range(5):
        rig.clock.advance(60 * S)
        rig.read(0x0C)
    assert rig.machine.interrupts.raised(IRQ) == before + 5


@settings(deadline=None)  # looks at every second of a day
@given(
    st.integers(0, 4 * 86400),
    st.one_of(st.none(), st.integers(0, 30)),
    st.one_of(st.none(), st.integers(0, 70)),
    st.one_of(st.none(), st.integers(0, 70)),
)
def test_next_alarm_is_the_first_match(seconds: int, hour: int | None, minute: int | None, second: int | None) -> None:
    found = Alarm(hour, minute, second).next_after(seconds)

    def matches(moment: int) -> bool:
        parts = (moment // 3600 % 24, moment // 60 % 60, moment % 60)
        return all(want in (None, part) for want, part in zip((hour, minute, second), parts, strict=True))

    possible = (hour or 0) < 24 and (minute or 0) < 60 and (second or 0) < 60
    assert (found is not None) == possible
    if found is not None:
        assert seconds < found <= seconds + 86400
        assert matches(found)
        step = 1 if second is None else 60
        candidate = found - step
        while candidate > seconds:
            assert not matches(candidate)
            candidate -= step


def test_host_clock_set_back_does_not_stop_interrupts() -> None:
    rig = Rig()
    shift = [0]
    rig.rtc.reference = lambda: rig.machine.clock.host_ns() + shift[0]
    rig.read(0x0C)
    rig.write(0x0B, UPDATE | BCD_24H)
    shift[0] = -3600 * S
    rig.clock.advance(S + 100_000)
    rig.read(0x0C)
    rig.clock.advance(2 * S)
    assert rig.level == 1


def test_cmos_ram_keeps_through_reset_and_is_set_by_the_machine() -> None:
    rig = Rig()
    rig.rtc.cmos_set(0x15, 0x80)
    rig.write(0x0F, 0x0A)
    rig.write(0x7F, 0x55)
    rig.write(0x0B, PERIODIC | UPDATE | ALARM | BCD_24H)
    rig.clock.advance(S)
    for _ in range(2):
        rig.rtc.reset(ResetKind.COLD)
        assert (rig.read(0x15), rig.read(0x0F), rig.read(0xFF)) == (0x80, 0x0A, 0x55)  # bit 7 of the index is NMI
        assert rig.read(0x0B) == BCD_24H
        assert rig.level == 0
    for index in (0, 0x0A, 0x0D, 0x32, 0x80):
        with pytest.raises(ValueError, match="not RAM"):
            rig.rtc.cmos_set(index, 0)


def test_century_has_two_indices_and_d_is_read_only() -> None:
    rig = Rig()
    rig.write(0x37, 0x19)
    assert (rig.read(0x32), rig.read(0x37)) == (0x19, 0x19)
    rig.write(0x0D, 0)
    rig.write(0x0C, 0xFF)
    assert (rig.read(0x0D), rig.read(0x0C)) == (0x80, 0)
    assert rig.machine.pio.read(0x70, 1) == 0xFF


def test_unrealize_stops_the_timer() -> None:
    rig = Rig()
    rig.write(0x0B, PERIODIC | BCD_24H)
    rig.rtc.unrealize()
    rig.clock.advance(S)
    assert rig.clock.next_deadline() is None
    assert rig.machine.pio.ranges == ()


@pytest.mark.parametrize("policy", ["discard", "slew"])
def test_random_accesses_never_raise(policy: str) -> None:
    rig = Rig(lost_tick_policy=policy)
    for seed in range(10):
        pound(rig.machine.pio, [0x6E, 0x70, 0x70, 0x71], seed, count=1000)
        rig.clock.advance(S // 10)
    for index in range(256):
        for value in (0, 0x7F, 0x80, 0x99, 0xFF):
            rig.write(index, value)
            assert 0 <= rig.read(index) <= 0xFF
    rig.rtc.reset(ResetKind.COLD)
    assert rig.level == 0
