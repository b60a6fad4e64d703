# SPDX-License-Identifier: Apache-2.0
"""Requests and replies of the wire protocol (contract §2), wrong ones included. What QEMU answers is QEMU's answer."""

from __future__ import annotations

import re
import socket
import time
from typing import TYPE_CHECKING

import pytest

from tests.framework.qtest import Qtest, QtestRefusal
from tests.framework.vm import emulator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: requests in order and the whole reply, as QEMU 7.2.22 gives it (``test_qemu_answers_so``)
CONVERSATION = (
    ("endianness", "OK little"),
    ("endianness foo", "OK little"),
    ("ENDIANNESS", "FAIL Unknown command 'ENDIANNESS'"),
    ("rtas x", "FAIL Unknown command 'rtas'"),
    ("foo", "FAIL Unknown command 'foo'"),
    ("read 0x10000 4", "OK 0x00000000"),
    ("b64write 0x10000 4 AQI=", "OK"),
    ("b64write 0x10000 2 AQIDBA==", "OK"),
    ("read 0x10000 2", "OK 0x0102"),
    ("b64read 0x10000 2", "OK AQI="),
    ("b64read 0x10000 0", "OK "),
    ("b64write 0x10000 4 AQIDBA", "OK"),
    ("memset 0x10000 0 0xff", "OK"),
    ("memset 0x10000 4 0x1ff", "OK"),
    ("read 0x10000 4", "OK 0xffffffff"),
    ("write 0x10000 0x4 0x", "ERR invalid argument size"),
    ("write 0x10000 4 0x11", "OK"),
    ("read 0x10000 4", "OK 0x11000000"),
    ("write 0x10000 2 0x1122334455", "OK"),
    ("read 0x10000 2", "OK 0x1122"),
    ("write 0x10000 2 zzzzzzzz", "OK"),
    ("read 0x10000 2", "OK 0xffff"),
    ("writeb 0x10000 0x1ff", "OK"),
    ("readb 0x10000", "OK 0x00000000000000ff"),
    ("writeq 0x10010 0x1122334455667788", "OK"),
    ("read 0x10010 8", "OK 0x8877665544332211"),
    ("readb 0x10010", "OK 0x0000000000000088"),
    ("readw 0x10010", "OK 0x0000000000007788"),
    ("readl 0x10011", "OK 0x0000000044556677"),
    ("readq 0x10010", "OK 0x1122334455667788"),
    ("writew 65568 010", "OK"),  # decimal address, octal value
    ("readw 0200040", "OK 0x0000000000000008"),
    ("readq 0xffff000000000000", "OK 0x0000000000000000"),
    ("readl 0xfffffff0", "OK 0x0000000000e05bea"),
    ("readb 0xfee00030", "OK 0x0000000000000000"),
    ("readl 0xd0000000", "OK 0x0000000000000000"),
    ("readl 0xa0000", "OK 0x0000000000000000"),
    ("read 0xfffffffffffffff0 16", "OK 0x" + "00" * 16),
    ("inl 0x5678", "OK 0xffffffff"),
    ("inb 0x5678", "OK 0x00ff"),
    ("inw 0x5678", "OK 0xffff"),
    ("outb 0x80 0x1ff", "OK"),
    ("outl 0xcf8 0x80000000", "OK"),
    ("inl 0xcf8", "OK 0x80000000"),
    ("inl 0xcfc", "OK 0x12378086"),
    ("inb 0xcf8 extra", "OK 0x0000"),
    ("irq_intercept_in nosuch", "FAIL Unknown device"),
    ("irq_intercept_out nosuch", "FAIL Unknown device"),
    ("irq_intercept_in rtc", "FAIL Unknown device"),
    ("irq_intercept_in ioapic", "OK"),
    ("irq_intercept_in i440fx/ioapic", "OK"),
    ("irq_intercept_in /machine/i440fx/ioapic", "OK"),
    ("set_irq_in nosuch x 0 1", "FAIL Unknown device"),
    ("set_irq_in ioapic unnamed-gpio-in 0x4 1", "IRQ raise 4;OK"),
    ("set_irq_in ioapic unnamed-gpio-in 4 1", "OK"),
    ("set_irq_in ioapic unnamed-gpio-in 4 0", "IRQ lower 4;OK"),
    ("module_load a b", "FAIL"),
)

#: QEMU dies of these; vmmd says what is wrong
WRONG = (
    ("inb", "ERR inb takes 1 words, not 0"),
    ("inb ", "ERR '' is not a number"),
    ("inb  0x0", "ERR '' is not a number"),
    ("inb zz", "ERR 'zz' is not a number"),
    ("inb 1_0", "ERR '1_0' is not a number"),
    ("inb 08", "ERR '08' is not an octal number"),
    ("inb 0x10000", "ERR 0x10000 is not between 0 and 0xffff"),
    ("outb 0x80", "ERR outb takes 2 words, not 1"),
    ("readb 0x1ffffffffffffffff", "ERR 0x1ffffffffffffffff is not between 0 and 0xffffffffffffffff"),
    ("read 0 0", "ERR invalid argument size"),
    ("read 0 0x1000001", "ERR 0x1000001 is not between 0 and 0x1000000"),
    ("write 0 4", "ERR write takes 3 words, not 2"),
    ("b64write 0 4 A", "ERR the data are not base64"),
    ("clock_step zz", "ERR 'zz' is not a number"),
    ("clock_step 0x8000000000000000", "ERR 0x8000000000000000 does not fit into 64 bits"),
    ("clock_set", "ERR clock_set takes 1 words, not 0"),
    ("set_irq_in ioapic foo 0 1", "FAIL no such input"),
    ("set_irq_in ioapic unnamed-gpio-in 24 1", "FAIL no such input"),
    ("set_irq_in ioapic unnamed-gpio-in -1 1", "FAIL no such input"),
    ("", "FAIL Unknown command ''"),
    ("in\x01b 0", "FAIL Unknown command 'in?b'"),
)


@pytest.fixture(scope="module")
def vm() -> Iterator[Qtest]:
    with Qtest("vmmd", "-nodefaults") as started:
        yield started


def talk(vm: Qtest) -> list[tuple[str, str]]:
    """The conversation, with IRQ lines before the replies that they came with."""
    said = []
    for request, _ in CONVERSATION:
        seen = len(vm.irq_edges)
        reply = vm.ask_line(request)
        edges = [f"IRQ {'raise' if level else 'lower'} {pin};" for pin, level in vm.irq_edges[seen:]]
        said.append((request, "".join(edges) + reply))
    return said


def test_the_conversation() -> None:
    with Qtest("vmmd", "-nodefaults") as fresh:
        assert talk(fresh) == list(CONVERSATION)


@pytest.mark.qemu
def test_qemu_answers_so() -> None:
    if not emulator("qemu").installed:
        pytest.skip("no QEMU")
    with Qtest("qemu", "-nodefaults") as fresh:
        assert talk(fresh) == list(CONVERSATION)


@pytest.mark.parametrize(("request_line", "reply"), WRONG, ids=[line or "empty" for line, _ in WRONG])
def test_wrong_requests_are_answered(vm: Qtest, request_line: str, reply: str) -> None:
    assert vm.ask_line(request_line) == reply
    assert vm.ask_line("endianness") == "OK little"


def test_negative_numbers_wrap_as_in_c(vm: Qtest) -> None:
    assert vm.ask_line("readb -1") == vm.ask_line("readb 0xffffffffffffffff")


def test_64_kib_is_one_line(vm: Qtest) -> None:
    data = bytes(range(256)) * 256
    line = f"write 0x80000 0x10000 0x{data.hex()}"
    assert len(line) + 1 == 131_097
    vm.ask(line)
    assert vm.read(0x8_0000, 0x1_0000) == data


def test_the_largest_block(vm: Qtest) -> None:
    """16 MiB in one line, and back: more than the buffer of any socket or character device."""
    data = bytes(range(1, 251)) * 67_109
    vm.write(0x100_0000, data[: 16 << 20])
    assert vm.read(0x100_0000, 16 << 20) == data[: 16 << 20]


def test_a_longer_line_is_refused_and_not_kept(vm: Qtest) -> None:
    vm.send_raw(b"write 0 4 0x" + b"0" * (33 << 20) + b"\n")
    assert vm.reply_line() == "ERR a request takes at most 33554560 bytes"
    assert vm.ask_line("endianness") == "OK little"


def test_requests_may_come_in_pieces_and_together(vm: Qtest) -> None:
    for piece in (b"end", b"ianness\nre", b"adb 0x", b"10\nfoo\nendianness\n"):
        vm.send_raw(piece)
        vm.qmp("query-status")  # the loop has taken what was there
    assert vm.reply_line() == "OK little"
    assert vm.reply_line().startswith("OK 0x")
    assert vm.reply_line() == "FAIL Unknown command 'foo'"
    assert vm.reply_line() == "OK little"


def test_without_the_accelerator_there_is_no_clock_to_step() -> None:
    with Qtest("vmmd", "-machine", "none", accel=("kvm", "qtest")) as vm:
        has_kvm = vm.qmp("query-kvm")["enabled"]
        assert vm.ask_line("clock_step 1").startswith("FAIL" if has_kvm else "OK")


# --- time ---


def test_time_stands_still_but_for_the_client(vm: Qtest) -> None:
    before = vm.clock_step(0)
    for _ in range(10):
        vm.qmp("query-status")
    assert vm.clock_step(0) == before
    assert vm.clock_step(12_345) == before + 12_345
    assert vm.clock_step(-1) == before + 12_345
    assert vm.clock_set(1) == before + 12_345
    assert vm.clock_set(before + 99_999) == before + 99_999


def test_a_plain_step_goes_to_the_next_timer() -> None:
    with Qtest("vmmd", "-nodefaults") as vm:
        vm.irq_intercept_in("ioapic")
        vm.outb(0x43, 0x34)  # PIT counter 0, mode 2
        vm.outb(0x40, 0x00)
        vm.outb(0x40, 0x10)  # every 4096 ticks of 1193182 Hz
        period_ns = 4096 * 10**9 / 1_193_182
        times = [vm.clock_step() for _ in range(8)]
        assert times == sorted(set(times))
        rising = [edge for edge in vm.irq_edges if edge == (0, 1)]
        assert rising, "the PIT shows as pin 0"
        assert times[-1] <= 9 * period_ns


def test_no_edge_is_lost_in_a_long_step() -> None:
    """The PIT's 1000 counts for 20 s: 23,863 interrupts."""
    with Qtest("vmmd", "-nodefaults") as vm:
        vm.irq_intercept_in("ioapic")
        for port, value in ((0x43, 0x34), (0x40, 1000 & 0xFF), (0x40, 1000 >> 8)):
            vm.outb(port, value)
        vm.irq_edges.clear()
        vm.clock_step(20_000_000_000)
        assert abs(vm.irq_edges.count((0, 1)) - 20 * 1_193_182 // 1000) <= 1


def test_time_ends_with_64_bits() -> None:
    with Qtest("vmmd", "-nodefaults") as vm:
        last_ns = (1 << 63) - 1
        vm.qmp("stop")  # no timer runs on the way
        assert vm.clock_set(last_ns) == last_ns
        assert vm.ask_line("clock_step 1") == f"ERR virtual time ends at {last_ns}"
        assert vm.clock_step(0) == last_ns


def test_a_long_step_leaves_the_monitor_alive() -> None:
    """An hour of an 8 kHz RTC interrupt is 29 million timers: the loop gets its turns all the while."""
    with Qtest("vmmd", "-nodefaults", "-rtc", "clock=vm") as vm:
        vm.outb(0x70, 0x0A)
        vm.outb(0x71, 0x23)
        vm.outb(0x70, 0x0B)
        vm.outb(0x71, 0x42)
        vm.send_raw(b"clock_step 3600000000000\n")
        waits_s = []
        for _ in range(20):
            begin = time.monotonic()
            assert vm.qmp("query-status")["running"]
            waits_s.append(time.monotonic() - begin)
        assert sorted(waits_s)[len(waits_s) // 2] < 0.1
        assert max(waits_s) < 1


# --- clients ---


class _Client:
    """A second or third client of a listening qtest socket."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        deadline = time.monotonic() + 10
        while True:
            try:
                self.socket.connect(str(path))
                break
            except (FileNotFoundError, ConnectionRefusedError):
                assert time.monotonic() < deadline
                time.sleep(0.01)
        self.lines = self.socket.makefile("rb")

    def ask(self, request: str) -> list[str]:
        """IRQ lines and the reply."""
        self.socket.sendall(request.encode() + b"\n")
        said = [self.lines.readline().decode().rstrip("\n")]
        while said[-1].startswith("IRQ"):
            said.append(self.lines.readline().decode().rstrip("\n"))
        return said

    def close(self) -> None:
        self.lines.close()
        self.socket.close()


def test_a_client_may_go_and_come_back(tmp_path: Path) -> None:
    """Levels are forgotten: what is high already is raised again only after it was lowered. Half a request is, too."""
    path = tmp_path / "q"
    with Qtest("vmmd", "-nodefaults", "-qtest", f"unix:{path},server=on,wait=off", connect_qtest=False) as vm:
        client = _Client(path)
        assert client.ask("irq_intercept_in ioapic") == ["OK"]
        assert client.ask("set_irq_in ioapic unnamed-gpio-in 5 1") == ["IRQ raise 5", "OK"]
        client.socket.sendall(b"half a requ")
        client.close()
        client = _Client(path)
        assert client.ask("endianness") == ["OK little"]
        assert client.ask("irq_intercept_in ioapic") == ["OK"]
        assert client.ask("set_irq_in ioapic unnamed-gpio-in 5 0") == ["OK"]
        assert client.ask("set_irq_in ioapic unnamed-gpio-in 5 1") == ["IRQ raise 5", "OK"]
        client.close()
        assert vm.qmp("query-status")["running"]


def _listening(path: Path) -> Qtest:
    return Qtest("vmmd", "-nodefaults", "-qtest", f"unix:{path},server=on,wait=off", connect_qtest=False)


def test_the_next_client_gets_no_reply_of_the_last(tmp_path: Path) -> None:
    """A client that leaves in the middle of a long step, and of requests behind it."""
    path = tmp_path / "q"
    with _listening(path) as vm:
        client = _Client(path)
        for setting in ("0x70 0x0a", "0x71 0x23", "0x70 0x0b", "0x71 0x42"):  # the RTC interrupts at 8 kHz
            assert client.ask(f"outb {setting}") == ["OK"]
        client.socket.sendall(b"clock_step 3600000000000\n" + b"inb 0x80\n" * 9)
        client.close()
        client = _Client(path)
        assert client.ask("endianness") == ["OK little"]
        assert client.ask("readb 0x100000") == ["OK 0x0000000000000000"]
        client.close()
        assert vm.qmp("query-status")["running"]


@pytest.mark.parametrize("half", [False, True], ids=["closes", "half-closes"])
def test_what_a_client_has_sent_is_served_though_it_leaves(tmp_path: Path, half: bool) -> None:
    """... before the next client is; and answered, when it still reads."""
    path = tmp_path / "q"
    with _listening(path):
        client = _Client(path)
        client.socket.sendall(b"".join(b"writeb %d 7\n" % (0x10_0000 + at) for at in range(100)))
        if half:
            client.socket.sendall(b"read 0x200000 0x200000\n")  # more than the buffers on the way
            client.socket.shutdown(socket.SHUT_WR)
            replies = client.lines.read().splitlines()
            assert replies == [b"OK"] * 100 + [b"OK 0x" + b"00" * 0x20_0000]
        client.close()
        client = _Client(path)
        assert client.ask("read 0x100000 100") == ["OK 0x" + "07" * 100]
        client.close()


def test_a_client_that_does_not_read_costs_bounded_memory() -> None:
    """12 replies of 8 MiB: none is made while another waits."""
    with Qtest("vmmd", "-nodefaults") as vm:
        before = _resident_bytes(vm)
        vm.send_raw(b"read 0x100000 0x400000\n" * 12)
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline:
            vm.qmp("query-status")
        assert _resident_bytes(vm) - before < 64 << 20
        for _ in range(12):
            assert len(vm.reply_line()) == len("OK 0x") + 2 * 0x40_0000


def _resident_bytes(vm: Qtest) -> int:
    with open(f"/proc/{vm.process.pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


def test_a_dropped_connection_ends_nothing() -> None:
    with Qtest("vmmd", "-nodefaults") as vm:
        vm.send_raw(b"read 0 0x100000\n" * 20)
        vm.drop_qtest()
        assert vm.qmp("query-status")["running"]


# --- -qtest-log ---


def test_the_log_has_every_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Qtest("vmmd", "-nodefaults", log=str(log)) as vm:
        vm.ask("irq_intercept_in ioapic")
        vm.ask("set_irq_in ioapic unnamed-gpio-in 4 1")
        with pytest.raises(QtestRefusal):
            vm.ask("foo")
    lines = log.read_text("ascii").splitlines()
    assert lines[0] == "[I 0.000000] OPENED"
    assert all(re.fullmatch(r"\[[RSI] \+\d+\.\d{6}\] .*", line) for line in lines[1:])
    assert [re.sub(r" \+[\d.]+", "", line) for line in lines[1:]] == [
        "[R] endianness",
        "[S] OK little",
        "[R] irq_intercept_in ioapic",
        "[S] OK",
        "[R] set_irq_in ioapic unnamed-gpio-in 4 1",
        "[S] IRQ raise 4",
        "[S] OK",
        "[R] foo",
        "[S] FAIL Unknown command 'foo'",
    ]


def test_the_log_may_be_an_inherited_descriptor() -> None:
    """``/dev/fd/2`` is what QTEST_LOG=1 gives."""
    with Qtest("vmmd", "-nodefaults", log="/dev/fd/2") as vm:
        vm.inb(0x80)
    assert "] inb 0x80\n" in vm.stderr


def test_a_log_that_cannot_be_written_is_refused() -> None:
    vm = Qtest("vmmd", "-nodefaults", log="/nonexistent/log")
    with pytest.raises(AssertionError):
        vm.start()
    assert "-qtest-log: Could not open '/nonexistent/log': No such file or directory" in vm.stderr
