# SPDX-License-Identifier: Apache-2.0
"""The readline monitor as the frontend of a character device: flow control, peers that leave, commands that wait."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from tests.unit.qmp_support import FakeVm, ManualFuture, ManualLoop
from vmmd.core.backend import CharEvent
from vmmd.errors import UsageError
from vmmd.qmp.hmp import readline
from vmmd.qmp.hmp.monitor import HumanMonitor
from vmmd.qmp.hmp.readline import ReadlineMonitor

if TYPE_CHECKING:
    from vmmd.core.backend import CharFrontend


class Device:
    """A character device; ``room`` is what its buffer takes."""

    label = "m"
    connected = True

    def __init__(self) -> None:
        self.frontend: CharFrontend | None = None
        self.output = ""
        self.room = 1 << 30
        self.largest = 0  # what was ever to be written at once
        self.resumed = 0
        self.is_open = False

    def attach(self, frontend: CharFrontend) -> None:
        if self.frontend is not None:
            raise UsageError("in use")
        self.frontend = frontend

    def detach(self) -> None:
        self.frontend = None

    def set_open(self, is_open: bool) -> None:
        self.is_open = is_open

    def write(self, data: bytes) -> int:
        taken = data[: self.room]
        self.largest = max(self.largest, len(data))
        self.room -= len(taken)
        self.output += taken.decode()
        return len(taken)

    def accept_input(self) -> None:
        self.resumed += 1


class Rig:
    """A monitor with a peer."""

    def __init__(self) -> None:
        self.loop = ManualLoop()
        self.vm = FakeVm(self.loop)
        self.device = Device()
        self.monitor = ReadlineMonitor(self.vm, self.loop, self.device)
        self.monitor.attach(self.vm.lock)
        self.tell(CharEvent.OPENED)

    def tell(self, event: CharEvent) -> None:
        with self.vm.lock:
            self.monitor.handle_event(event)
        self.loop.run_posted()

    def type(self, data: bytes) -> None:
        """What the device does with input: never more than the frontend takes."""
        while data:
            with self.vm.lock:
                room = self.monitor.can_receive()
                assert room > 0
                self.monitor.receive(data[:room])
            data = data[room:]
            self.loop.run_posted()

    def shown(self) -> str:
        text, self.device.output = self.device.output, ""
        return text


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_peer_is_greeted_and_answered(rig: Rig) -> None:
    assert rig.device.is_open
    assert rig.shown() == readline.banner() + "(qemu) "
    rig.type(b"info name\nbogus\n")
    assert rig.shown() == "info name\r\nfoo\r\n(qemu) bogus\r\nunknown command: 'bogus'\r\n(qemu) "
    assert rig.monitor.can_receive() > 0


def test_what_a_failing_command_was_given_is_logged_without_secrets(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    async def fail(monitor: HumanMonitor, line: str) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr(HumanMonitor, "run", fail)
    logger = SimpleNamespace(error=lambda text, *values, exc_info: told.append(text % values))
    monkeypatch.setattr(readline, "log", logger)
    rig.type(b"object_add secret,data=hunter2\n")
    assert told == ["command 'object_add secret,data=(not shown)' failed"]


def test_the_next_peer_finds_an_empty_line_and_the_history(rig: Rig) -> None:
    rig.type(b"info name\nqui")
    rig.tell(CharEvent.CLOSED)
    rig.shown()
    rig.tell(CharEvent.OPENED)
    rig.type(b"t\n\x10\x10\n")
    assert "unknown command: 't'" in rig.shown()
    assert rig.monitor.can_receive() > 0


def test_no_input_is_taken_while_the_output_does_not_go_out(rig: Rig) -> None:
    rig.shown()
    rig.device.room = 5
    rig.type(b"info name\ninfo uuid\n")
    assert rig.shown() == "info "
    assert rig.monitor.can_receive() == 0
    rig.device.room = 1 << 20
    rig.monitor.write_ready()
    rig.loop.run_posted()
    assert "foo\r\n(qemu) info uuid\r\n1111" in rig.shown()
    assert rig.monitor.can_receive() > 0
    assert rig.device.resumed > 0


def test_many_keys_that_show_much_go_out_piece_by_piece(rig: Rig) -> None:
    rig.type(b"x" * 16000)
    rig.shown()
    rig.type(b"\x0c" * 300)
    assert rig.shown().count("x" * 16000) == 300
    assert rig.device.largest < 64 << 10
    rig.device.room = 0
    rig.type(b"\x0c" * 300)
    assert rig.monitor.can_receive() == 0
    rig.device.room = 1 << 30
    rig.monitor.write_ready()
    rig.loop.run_posted()
    assert rig.shown().count("x" * 16000) == 300
    assert rig.device.largest < 64 << 10


def test_no_text_steers_the_terminal(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(rig.vm), "name", "a\x1b]0;\x07\x9b31m\u202eb\r\tü\u2028")
    rig.vm.chardevs["c\x1b1"] = rig.vm.chardevs["c0"]
    rig.shown()
    rig.type(b"info name\n")
    text = "a\\u001b]0;\\u0007\\u009b31m\\u202eb\\u000d\tü\\u2028"
    assert rig.shown() == f"info name\r\n{text}\r\n(qemu) "
    rig.type(b"chardev-remove \t")
    assert rig.shown() == "chardev-remove c0 "


def test_what_a_peer_that_did_not_read_had_sent_is_not_run(rig: Rig) -> None:
    rig.device.room = 0
    rig.type(b"info name\nstop\n")
    rig.tell(CharEvent.CLOSED)
    with rig.vm.lock:
        assert rig.monitor.can_receive() > 0  # it is taken, and forgotten
        rig.monitor.receive(b"quit\n")
    rig.device.room = 1 << 20
    rig.shown()
    rig.tell(CharEvent.OPENED)
    rig.type(b"info status\n")
    assert rig.shown().endswith("info status\r\nVM status: paused (prelaunch)\r\n(qemu) ")


def test_a_peer_that_leaves_after_its_last_command_has_it_run(rig: Rig) -> None:
    rig.type(b"cpu 1\n")
    with rig.vm.lock:
        rig.monitor.receive(b"cpu 0\ncpu 1\n")
    rig.tell(CharEvent.CLOSED)
    rig.tell(CharEvent.OPENED)
    rig.type(b"info cpus\n")
    assert "* CPU #1" in rig.shown()


def test_input_waits_while_a_command_does_and_its_text_goes_to_who_gave_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    future = ManualFuture()

    async def stop() -> None:
        await future

    monkeypatch.setattr(rig.vm, "stop", stop)
    rig.shown()
    rig.type(b"stop\n")
    assert rig.shown() == "stop\r\n"
    assert rig.monitor.can_receive() == 0
    rig.tell(CharEvent.CLOSED)
    rig.tell(CharEvent.OPENED)
    assert rig.shown() == readline.banner() + "(qemu) "
    future.set_result(None)
    rig.loop.run_posted()
    assert rig.shown() == ""
    rig.type(b"info name\n")
    assert rig.shown() == "info name\r\nfoo\r\n(qemu) "


def test_a_bug_in_a_command_is_told_and_the_monitor_goes_on(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(rig.vm), "name", property(lambda vm: 1 // 0))
    rig.type(b"info name\ninfo status\n")
    text = rig.shown()
    assert "Error: internal error: ZeroDivisionError\r\n(qemu) info status\r\nVM status" in text


def test_a_device_has_one_monitor(rig: Rig) -> None:
    with pytest.raises(UsageError):
        ReadlineMonitor(rig.vm, rig.loop, rig.device).attach(rig.vm.lock)


def test_quit_is_the_last_word(rig: Rig) -> None:
    ended = []
    rig.vm.on_end = ended.append
    rig.shown()
    rig.type(b"quit\n")
    assert rig.shown() == "quit\r\n"
    assert ended == [0]
