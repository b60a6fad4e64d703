# SPDX-License-Identifier: Apache-2.0
"""The test framework's QMP client, text channels and process handling, against scripted peers."""

from __future__ import annotations

import os
import signal
import socket
import sys

import pytest

from tests.framework.qmp import Qmp, QmpClosed, QmpError, QmpTimeout
from tests.framework.scenarios import comparable, msi_interrupts
from tests.framework.serial import TextChannel, strip_terminal
from tests.framework.vm import Emulator, Vm, VmError
from tests.framework.wait import Reactor

GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\r\n'
READY = GREETING + b'{"return": {}, "id": "t1"}\r\n'


@pytest.fixture
def wire():
    """A client and the server's end of its connection; replies can be written before they are asked for."""
    ours, theirs = socket.socketpair()
    client = Qmp(ours)
    yield client, theirs
    client.close()
    theirs.close()


def test_qmp_command_returns_value_and_sends_dashes(wire):
    client, server = wire
    server.sendall(READY + b'{"return": 7, "id": "t2"}\r\n')
    client.negotiate()
    assert client.cmd("x-test", {"verbatim_key": 1}, cpu_index=0) == 7
    sent = server.recv(4096).split(b"\r\n")
    assert sent[1] == b'{"execute": "x-test", "id": "t2", "arguments": {"verbatim_key": 1, "cpu-index": 0}}'


def test_qmp_error_reply_raises_class_and_description(wire):
    client, server = wire
    server.sendall(READY + b'{"error": {"class": "CommandNotFound", "desc": "no"}, "id": "t2"}\r\n')
    client.negotiate()
    with pytest.raises(QmpError) as caught:
        client.cmd("nothing")
    assert (caught.value.error_class, caught.value.desc) == ("CommandNotFound", "no")


def test_qmp_replies_out_of_order_are_matched_by_id(wire):
    client, server = wire
    server.sendall(READY + b'{"return": "second", "id": "t3"}\r\n{"return": "first", "id": "t2"}\r\n')
    client.negotiate()
    first, second = client.start("a"), client.start("b")
    assert client.finish(first) == "first"
    assert client.finish(second) == "second"


def test_qmp_events_split_anywhere_are_seen_once_and_in_order(wire):
    client, server = wire
    server.sendall(READY + b'{"event": "STOP"}\r\n{"event": "RES')
    client.negotiate()
    assert client.wait_event("STOP") == {"event": "STOP"}
    server.sendall(b'UME"}\r\n')
    assert client.wait_event("RESUME") == {"event": "RESUME"}
    with pytest.raises(QmpTimeout):
        client.wait_event("STOP", timeout_s=0.01)


def test_qmp_hang_up_raises_instead_of_waiting(wire):
    client, server = wire
    server.sendall(READY)
    client.negotiate()
    server.close()
    with pytest.raises(QmpClosed):
        client.wait_event("SHUTDOWN")


def test_serial_expect_consumes_output_from_left_to_right():
    reactor = Reactor()
    read_fd, write_fd = os.pipe()
    channel = TextChannel(reactor, read_fd)
    channel.wait = lambda until, timeout_s, what: None if reactor.wait(until, timeout_s) else pytest.fail(what)
    os.write(write_fd, b"=> one\r\n=> two\r\n=> ")
    channel.expect("=> ", 1)
    assert channel.expect_until(r"\n=> ", 1) == "one"
    assert channel.expect_until(r"\n=> ", 1) == "two"
    channel.close()
    os.close(write_fd)


@pytest.mark.parametrize(
    ("raw", "plain"),
    [("\x1b[2J\x1b[10;7Hg\x1b[me\r\n", "ge\n"), ("abX\b\bc", "ac"), ("\bx", "x"), ("\x1bc\x1b[?7lS", "S")],
)
def test_strip_terminal_removes_what_a_screen_would_not_show(raw, plain):
    assert strip_terminal(raw) == plain


def test_comparable_drops_times_but_keeps_values():
    text = "CPU Mhz=2596 (kvmclock)\n200001 bytes read in 195 ms (1001 KiB/s)\nMemTotal: 5 kB\n"
    assert comparable(text) == "CPU Mhz\n200001 bytes read in N ms\nMemTotal: 5 kB"


def test_msi_interrupts_finds_counts_by_name():
    table = "  4:  19  IO-APIC   4-edge      ttyS0\n 25:          6   PCI-MSI 32769-edge      virtio0-req.0\n"
    assert list(msi_interrupts(table)) == [("virtio0-req.0", 6)]


def fake(code: str) -> Emulator:
    """An emulator that is a Python program; it gets the Vm's arguments as sys.argv."""
    return Emulator("fake", (sys.executable, "-S", "-c", code))


def test_vm_that_dies_at_start_is_reported_with_status_and_stderr():
    vm = Vm(fake("import sys; sys.stderr.write('boom'); sys.exit(3)"), ["-m", "64"])
    with pytest.raises(VmError, match=r"(?s)-m 64.*status 3.*boom"), vm:
        pass
    assert not vm.directory.exists()


def test_vm_serial_answers_and_exit_status_and_cpu_time_are_kept():
    code = "import sys; print('ready', flush=True); line = sys.stdin.readline(); print('got', line); sys.exit(5)"
    with Vm(fake(code), [], qmp=False) as vm:
        vm.serial.expect("ready", 30)
        vm.serial.send("ping\n")
        vm.serial.expect("got ping", 30)
        assert vm.wait_exit(30) == 5
        assert vm.cpu_seconds() > 0


def test_vm_close_ends_only_its_process_even_when_it_ignores_sigterm(monkeypatch):
    monkeypatch.setattr("tests.framework.vm.TERMINATE_TIMEOUT_S", 0.2)
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"
    with Vm(fake(code), [], qmp=False) as vm:
        vm.serial.expect("ready", 30)
    assert vm.wait_exit(0) == -signal.SIGKILL
