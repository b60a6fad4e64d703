# SPDX-License-Identifier: Apache-2.0
"""Commands of the monitor for people that are little more than a QMP command, completion, and interrupt controllers."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from tests.unit.fakes import RecordingInterrupts
from tests.unit.qmp_support import FakeVm, ManualLoop, run_to_end
from vmmd.core.irq import GsiFanIn, IoapicState, PicState
from vmmd.qmp.hmp.monitor import HumanMonitor


@pytest.fixture
def vm() -> FakeVm:
    return FakeVm(ManualLoop())


@pytest.fixture
def monitor(vm: FakeVm) -> HumanMonitor:
    return HumanMonitor(vm)


def say(monitor: HumanMonitor, line: str) -> str:
    return run_to_end(monitor.run(line), monitor.vm.loop)


@pytest.mark.parametrize(
    ("before", "words"),
    [
        ("", {"info", "stop", "s", "xp"}), ("in", {"info"}), ("info ", {"status", "mem"}), ("info st", {"status"}),
        ("help ", {"info", "stop"}), ("help info ", {"status"}), ("chardev-remove ", {"c0"}), ("cpu ", {"0", "1"}),
        ("device_add ", {"virtio-blk-pci"}), ("device_add virtio-blk-pci,dr", {"virtio-blk-pci,drive="}),
        ("device_add isa-serial,id=s,chardev=", {"isa-serial,id=s,chardev=c0"}), ("object_add ", {"rng-random"}),
        ("object_add rng-random,", {"rng-random,filename=", "rng-random,id="}), ("chardev-add null,", {"null,id="}),
        ("device_add bogus", {"isa-serial"}),
        ("info registers ", {"0", "1"}), ("info block ", {"d0"}), ("chardev-add ", {"null", "socket"}),
    ],
)  # fmt: skip
def test_what_may_come_next_is_known_from_the_declarations(monitor, before: str, words: set[str]) -> None:
    assert words <= set(monitor.completions(before))


@pytest.mark.parametrize(
    "before", ["bogus ", "info bogus ", "stop ", "x/2i ", "cpu 0 ", "info status ", "device_add bogus,", "help x "]
)
def test_nothing_is_offered_where_nothing_is_known(monitor, before: str) -> None:
    assert monitor.completions(before) == []


def test_the_chosen_vcpu_stays_chosen(monitor) -> None:
    assert say(monitor, "cpu 1") == ""
    assert "* CPU #1" in say(monitor, "info cpus")
    assert say(monitor, "info registers").startswith("\r\nCPU#1\r\n")
    assert say(monitor, "cpu 2") == say(monitor, "cpu -1") == "invalid CPU index\r\n"
    assert "* CPU #1" in say(monitor, "info cpus")


def test_the_last_format_is_used_again(monitor) -> None:
    assert say(monitor, "p/d 16") == say(monitor, "p 0x10") == "16\r\n"
    assert say(monitor, "xp/2xb 0") == "0000000000000000: 0x00 0x00\r\n"
    assert say(monitor, "xp 0") == "0000000000000000: 0x00\r\n"


def test_words_may_be_quoted(monitor) -> None:
    assert say(monitor, r'help "st\op"').startswith("unsupported escape code: '\\o'")
    assert say(monitor, 'help "stop"').startswith("stop|s ")
    assert say(monitor, 'help "stop').startswith("unterminated string")


def test_keys_are_checked_before_the_missing_keyboard_is_told(monitor) -> None:
    assert say(monitor, "sendkey ctrl-alt-nokey") == "invalid parameter: nokey\r\n"
    for keys in ("ctrl-alt-delete", "<", "0x1e", "a 100"):
        assert say(monitor, f"sendkey {keys}").startswith("Error: Input handler not found for event type key;")
    assert say(monitor, "sendkey " + "-".join("a" * 17)).startswith("Error: too many keys")


def test_a_port_is_read_and_written_as_by_a_vcpu(vm: FakeVm, monitor) -> None:
    seen = []
    vm.pio = SimpleNamespace(  # type: ignore[assignment]
        read=lambda port, size: seen.append((port, size)) or 0x1234, write=lambda *access: seen.append(access)
    )
    assert say(monitor, "i/h 0x1cf8") == "portw[0x1cf8] = 0x1234\r\n"
    assert say(monitor, "i/b 0x70.0x102") == "portb[0x0071] = 0x1234\r\n"
    assert say(monitor, "o/b 0x80 0x1ff") == ""
    assert seen == [(0x1CF8, 2), (0x70, 1, 2), (0x71, 1), (0x80, 1, 0xFF)]


def test_a_kernels_ring_is_shown_with_its_backslashes_doubled(monitor) -> None:
    async def talk() -> str:
        await monitor.qmp("query-name")
        from vmmd.qmp.hmp.char import _visible

        return "".join(map(_visible, "a\\b\x01\n\x7f"))

    assert asyncio.run(talk()) == "a\\\\b\\u0001\n\\u007F"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ('object_del ""', "Error: object '' not found"), ("device_del x y", "device_del: extraneous characters"),
        ("drive_del x y", "drive_del: extraneous characters"), ("drive_del", "drive_del: block device name expected"),
        ('block_resize x ""', "invalid size"), ("qom-get /machine", "qom-get: string expected"),
        ("logfile", "logfile: filename expected"), ("chardev-add", "chardev-add: string expected"),
        ("chardev-change c0", "chardev-change: string expected"), ("getfd", "getfd: string expected"),
        ("ringbuf_write c0", "ringbuf_write: string expected"), ("nmi 1", "nmi: extraneous characters"),
        ("device_add", "Error: Parameter 'driver' is missing"), ("info stats", "stats: string expected"),
        ('object_add "rng-random,id=r"', "Error: Parameter 'id' expects"),
    ],
)  # fmt: skip
def test_words_that_are_missing_or_too_many(monitor, line: str, text: str) -> None:
    assert say(monitor, line).startswith(text)


def test_what_follows_object_add_may_have_blanks(monitor) -> None:
    assert "/no/such file" in say(monitor, "object_add secret,id=s,file=/no/such file")


def test_a_waiting_chardev_is_refused_because_the_monitor_would_wait(monitor) -> None:
    text = say(monitor, "chardev-add socket,id=s,path=/nowhere/x,server=on")
    assert text == "Error: chardev 's' would wait for its first client; add wait=off\r\n"
    assert "not available" in say(monitor, "chardev-add udp,id=u,port=1")


def test_interrupt_controllers_are_shown(vm: FakeVm, monitor) -> None:
    pins = [1 << 16] * 24
    pins[4] = 0x0300_0000_0000_0000 | 0x31 | 1 << 8
    pins[11] = 0xFF00_0000_0000_0000 | 0x51 | 1 << 11 | 1 << 13 | 1 << 14 | 1 << 15
    ioapic = IoapicState(0x11, 2, 0x10, 1 << 11 | 1 << 2, tuple(pins))
    pics = (
        PicState(irr=1, imr=0xB8, isr=2, first=3, base=8, read_isr=True, elcr=0xC, special_nested=True),
        PicState(*bytes(6), elcr=0, special_nested=False),  # type: ignore[misc]
    )
    vm.chips = SimpleNamespace(ioapic_state=lambda: ioapic, pic_states=lambda: pics)  # type: ignore[assignment]
    lines = say(monitor, "info pic").split("\r\n")
    assert lines[0] == "ioapic0: ver=0x11 id=0x02 sel=0x10 (redir[0])"
    assert lines[1] == "  pin 0  0x0000000000010000 dest=0 vec=0   active-hi edge  masked fixed  physical"
    assert lines[5] == "  pin 4  0x0300000000000131 dest=3 vec=49  active-hi edge         lowest physical"
    assert lines[12] == "  pin 11 0xff0000000000e851 dest=ff vec=81  active-lo level        fixed  logical"
    assert lines[25:] == [
        "  IRR      2  11 ",
        "  Remote IRR 11 ",
        "pic1: irr=00 imr=00 isr=00 hprio=0 irq_base=00 rr_sel=0 elcr=00 fnm=0",
        "pic0: irr=01 imr=b8 isr=02 hprio=3 irq_base=08 rr_sel=1 elcr=0c fnm=1",
        "",
    ]


def test_interrupt_lines_are_counted_when_they_go_up(vm: FakeVm, monitor) -> None:
    assert say(monitor, "info irq") == "IRQ statistics for kvm-ioapic:\r\nIRQ statistics for kvm-i8259:\r\n"
    vm.irqs = GsiFanIn(RecordingInterrupts())
    for gsi in (4, 4, 20):
        line = vm.irqs.line(gsi)
        line.pulse()
        line.raise_()
        vm.irqs.line(gsi).raise_()  # the line is up already
        line.lower()
    text = say(monitor, "info irq").replace("\r\n", "\n")
    assert text == "IRQ statistics for kvm-ioapic:\n 4: 2\n20: 2\nIRQ statistics for kvm-i8259:\n 4: 2\n"
