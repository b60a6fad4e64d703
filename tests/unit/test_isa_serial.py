# SPDX-License-Identifier: Apache-2.0
"""The 16550A by its data sheet, on fakes. Register behaviour beside QEMU: tests/differential/test_uart_registers.py."""

from __future__ import annotations

import pytest

from tests.unit.fakes import FakeChardev, make_context, props
from vmmd.core.backend import CharEvent
from vmmd.core.device import ResetKind
from vmmd.devices.isa.serial import IsaSerial
from vmmd.errors import UsageError

BASE = 0x3F8
DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR = range(BASE, BASE + 8)
CHAR_NS_8N1_DIVISOR_12 = 10 * 12 * 1_000_000_000 // 115200


class Port:
    def __init__(self, **given):
        self.machine = make_context()
        self.chardev = FakeChardev("c0")
        self.machine.backends.chardevs["c0"] = self.chardev
        self.device = IsaSerial(props(IsaSerial, chardev="c0", **given), self.machine.ctx, "serial0")
        self.device.plug()

    def read(self, port):
        return self.machine.pio.read(port, 1)

    def write(self, port, value):
        self.machine.pio.write(port, 1, value)

    @property
    def irq(self):
        return self.machine.interrupts.levels.get(4, 0)


@pytest.fixture
def port():
    return Port()


def test_output_reaches_the_backend_and_transmitter_stays_empty(port):
    for value in b"hello":
        assert port.read(LSR) == 0x60
        port.write(DATA, value)
    assert port.chardev.output == b"hello"


def test_sixteen_bytes_per_lsr_with_fifo(port):
    port.write(IIR, 0x01)
    for value in range(16):
        port.write(DATA, value)
    assert port.chardev.output == bytes(range(16))
    assert port.read(IIR) == 0xC1


def test_backend_that_takes_nothing_withholds_thre_until_write_ready(port):
    port.write(IIR, 0x01)
    port.write(IER, 0x02)
    port.read(IIR)
    port.chardev.room = 1
    for value in b"abcd":
        port.write(DATA, value)
    assert port.read(LSR) == 0x00
    assert port.irq == 0
    port.chardev.room = 2
    port.device.write_ready()
    assert port.chardev.output == b"abc"
    assert port.read(LSR) == 0x00
    port.chardev.room = None
    port.device.write_ready()
    assert port.chardev.output == b"abcd"
    assert port.read(LSR) == 0x60
    assert port.irq == 1
    assert port.read(IIR) == 0xC2


def test_bytes_beyond_a_full_transmitter_are_counted(port):
    port.chardev.room = 0
    port.write(DATA, 1)
    port.write(DATA, 2)
    assert port.device.lost_tx_bytes == 1
    port.write(IIR, 0x07)  # FIFO on, cleared
    assert port.read(LSR) == 0x60
    for value in range(18):
        port.write(DATA, value)
    assert port.device.lost_tx_bytes == 3


def test_transmit_interrupt_follows_enable_iir_read_and_write(port):
    port.write(IER, 0x02)
    assert port.irq == 1
    assert port.read(IIR) == 0x02
    assert (port.irq, port.read(IIR)) == (0, 0x01)
    port.write(DATA, 65)
    assert (port.irq, port.read(IIR)) == (1, 0x02)


def test_receive_without_fifo_takes_one_byte_at_a_time(port):
    port.write(IER, 0x01)
    port.chardev.feed(b"xy")
    assert port.chardev.input == b"y"
    assert (port.read(LSR), port.irq, port.read(IIR)) == (0x61, 1, 0x04)
    assert port.read(DATA) == ord("x")
    assert port.read(DATA) == ord("y")
    assert (port.read(LSR), port.irq) == (0x60, 0)


def test_fifo_takes_sixteen_and_asks_for_more_when_it_was_full(port):
    port.write(IIR, 0x01)
    port.chardev.feed(bytes(range(40)))
    assert len(port.chardev.input) == 24
    assert [port.read(DATA) for _ in range(40)] == list(range(40))
    assert port.read(LSR) == 0x60


@pytest.mark.parametrize(("bits", "level"), [(0x00, 1), (0x40, 4), (0x80, 8), (0xC0, 14)])
def test_trigger_level_then_time_out(bits, level):
    port = Port()
    port.write(LCR, 0x03)
    port.write(IIR, 0x01 | bits)
    port.write(IER, 0x01)
    port.chardev.feed(b"z" * (level - 1))
    assert port.irq == 0
    port.chardev.feed(b"z")
    assert port.read(IIR) == 0xC4
    for _ in range(level):
        port.read(DATA)
    assert port.irq == 0
    if level == 1:
        return
    port.chardev.feed(b"q")
    port.machine.clock.advance(4 * CHAR_NS_8N1_DIVISOR_12 - 10)
    assert port.irq == 0
    port.machine.clock.advance(20)
    assert port.read(IIR) == 0xCC
    assert port.read(DATA) == ord("q")
    assert (port.irq, port.read(IIR)) == (0, 0xC1)


def test_time_out_restarts_with_each_character(port):
    port.write(LCR, 0x03)
    port.write(IIR, 0xC1)
    port.write(IER, 0x01)
    for _ in range(3):
        port.chardev.feed(b"k")
        port.machine.clock.advance(3 * CHAR_NS_8N1_DIVISOR_12)
        assert port.irq == 0
    port.machine.clock.advance(CHAR_NS_8N1_DIVISOR_12 + 10)
    assert port.irq == 1


def test_line_status_comes_before_data_before_transmit_before_modem(port):
    port.write(IIR, 0x01)
    port.write(IER, 0x0F)
    port.read(IIR)
    port.device.handle_event(CharEvent.BREAK)
    port.write(MCR, 0x10)  # loopback: all four inputs fall
    assert port.read(IIR) == 0xC6
    assert port.read(LSR) == 0xF1
    assert port.read(IIR) == 0xC4
    assert port.read(DATA) == 0
    assert port.read(IIR) == 0xC0
    assert port.read(MSR) == 0x0B
    assert (port.read(IIR), port.irq) == (0xC1, 0)
    port.write(IER, 0x00)
    port.write(IER, 0x02)
    assert port.read(IIR) == 0xC2


def test_break_shows_when_it_is_next_to_be_read(port):
    port.write(IIR, 0x01)
    port.chardev.feed(b"a")
    port.device.handle_event(CharEvent.BREAK)
    assert port.read(LSR) == 0xE1  # an error is somewhere in the FIFO
    assert port.read(DATA) == ord("a")
    assert port.read(LSR) == 0xF1
    assert port.read(LSR) == 0x61
    assert port.read(DATA) == 0


def test_loopback_sends_to_the_receiver_and_holds_the_line(port):
    port.write(MCR, 0x10)
    port.write(DATA, 0x5A)
    assert port.chardev.output == b""
    port.chardev.feed(b"outside")
    assert port.read(DATA) == 0x5A
    assert port.chardev.input == b"outside"
    port.write(MCR, 0x00)
    assert port.read(DATA) == ord("o")


def test_loopback_overrun_is_reported(port):
    port.write(MCR, 0x10)
    port.write(DATA, 1)
    port.write(DATA, 2)
    assert port.read(LSR) == 0x63
    assert port.read(LSR) == 0x61
    assert port.read(DATA) == 2


@pytest.mark.parametrize(("mcr", "msr"), [(0x11, 0x20), (0x12, 0x10), (0x14, 0x40), (0x18, 0x80), (0x1F, 0xF0)])
def test_loopback_connects_modem_outputs_to_inputs(port, mcr, msr):
    port.write(MCR, mcr)
    assert port.read(MSR) & 0xF0 == msr
    assert port.read(MSR) & 0x0F == 0


def test_divisor_latch_hides_data_and_ier(port):
    port.write(LCR, 0x83)
    port.write(DATA, 0x34)
    port.write(IER, 0x12)
    assert (port.read(DATA), port.read(IER)) == (0x34, 0x12)
    port.write(LCR, 0x03)
    assert (port.read(IER), port.chardev.output) == (0, b"")


def test_scratch_register(port):
    port.write(SCR, 0xA5)
    assert port.read(SCR) == 0xA5


def test_reset_is_power_on_state_and_takes_input_again(port):
    port.chardev.feed(b"ab")
    for register in (IER, IIR, LCR, MCR, SCR):
        port.write(register, 0x1F)
    port.device.reset(ResetKind.COLD)
    assert port.irq == 0
    assert [port.read(each) for each in (IER, IIR, LCR, MCR, MSR, SCR)] == [0, 1, 0, 8, 0xB0, 0]


def test_every_access_shape_is_survived(port):
    import random

    rnd = random.Random(16550)
    for _ in range(20_000):
        address, size = BASE - 4 + rnd.randrange(16), rnd.choice((1, 2, 4))
        if rnd.random() < 0.5:
            port.machine.pio.write(address, size, rnd.getrandbits(8 * size))
        else:
            assert 0 <= port.machine.pio.read(address, size) < 1 << (8 * size)
        if rnd.random() < 0.1:
            port.chardev.feed(b"noise"[: rnd.randrange(5)])
        assert port.device.can_receive() >= 0


def test_com_ports_by_index_and_first_free(port):
    ports = [port.device]
    for n in range(1, 4):
        port.machine.backends.chardevs[f"c{n}"] = FakeChardev(f"c{n}")
        ports.append(IsaSerial(props(IsaSerial, chardev=f"c{n}"), port.machine.ctx))
        ports[-1].plug()
    assert [(each.io_base, each.irq_number) for each in ports] == [(0x3F8, 4), (0x2F8, 3), (0x3E8, 4), (0x2E8, 3)]
    with pytest.raises(UsageError, match="supported number of ISA serial ports is 4"):
        IsaSerial(props(IsaSerial), port.machine.ctx).plug()
    with pytest.raises(UsageError, match="supported number of ISA serial ports is 4"):
        IsaSerial(props(IsaSerial, index="4"), port.machine.ctx).plug()


def test_iobase_and_irq_override_index():
    port = Port(index="1", iobase="0x3f8", irq="10")
    assert (port.device.io_base, port.device.irq_number) == (0x3F8, 10)


@pytest.mark.parametrize("given", [{"irq": "16"}, {"iobase": "0xfff9"}, {"baudbase": "0"}, {"wakeup": "on"}])
def test_values_that_do_not_fit_are_refused_and_leave_nothing(given):
    machine = make_context()
    machine.backends.chardevs["c0"] = chardev = FakeChardev("c0")
    with pytest.raises(UsageError, match=next(iter(given))):
        IsaSerial(props(IsaSerial, chardev="c0", **given), machine.ctx).plug()
    assert machine.pio.ranges == ()
    assert chardev.frontend is None
    assert machine.backends.claimed == []


def test_unrealize_gives_everything_back(port):
    assert port.chardev.frontend_open
    port.write(IER, 0x02)
    port.device.unrealize()
    assert (port.irq, port.chardev.frontend, port.machine.pio.ranges) == (0, None, ())
