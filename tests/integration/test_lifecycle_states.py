# SPDX-License-Identifier: Apache-2.0
"""Run states, events and their order, driven by the monitor and by the guest, on QEMU and on vmmd alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.framework.firmware import COMMANDS, commanded
from tests.framework.qmp import QmpError
from tests.framework.vm import Vm, emulator

if TYPE_CHECKING:
    from tests.framework.qmp import Qmp

pytestmark = pytest.mark.kvm

GUEST_TIMEOUT_S = 20.0
RESETS = ("cf9", "port 92h", "keyboard controller", "triple fault")
NEEDS_RESET = "GenericError: Resetting the Virtual Machine is required"


def machine(emulator_name: str, *options: str) -> Vm:
    """A machine with the firmware that obeys letters."""
    cpu = "qemu64,-cx16,-pni,-xsave"
    base = ["-M", "pc,accel=kvm", "-cpu", cpu, "-m", "16", "-nodefaults", "-bios", str(commanded())]
    return Vm(emulator(emulator_name), [*base, *options])


def status(qmp: Qmp) -> str:
    """The run state; `running` must agree with it."""
    answer = qmp.cmd("query-status")
    assert answer["running"] == (answer["status"] == "running")
    assert answer["singlestep"] is False
    return str(answer["status"])


def tell(vm: Vm, command: str) -> None:
    """Wait for the guest, and make it do something."""
    vm.serial.expect("@", GUEST_TIMEOUT_S)
    vm.serial.send(COMMANDS[command])


def events(vm: Vm) -> list[tuple[str, Any]]:
    """Name and data of all events so far."""
    vm.reactor.poll_now()
    return [(event["event"], event.get("data")) for event in vm.qmp.events]


def answer(vm: Vm, command: str) -> tuple[str, ...]:
    """Execute a command: what it sends before its reply, the reply, and the state after it."""
    seen = len(vm.qmp.transcript)
    try:
        vm.qmp.cmd(command)
        reply = "ok"
    except QmpError as error:
        reply = str(error)
    before = []
    for message in vm.qmp.transcript[seen:]:
        if "event" not in message:
            break
        before.append(message["event"])
    return (*before, reply, status(vm.qmp))


#: command -> what the monitor sends up to and including the reply, and the run state then; from `-S`
STEPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("stop", ("ok", "prelaunch")),  # nothing to stop: no event
    ("system_reset", ("RESET", "ok", "prelaunch")),
    ("cont", ("RESUME", "ok", "running")),
    ("cont", ("ok", "running")),
    ("stop", ("STOP", "ok", "paused")),
    ("stop", ("ok", "paused")),
    ("system_reset", ("RESET", "ok", "prelaunch")),
    ("cont", ("RESUME", "ok", "running")),
    ("system_reset", ("ok", "running")),  # RESET comes before or after the reply
    ("stop", ("STOP", "ok", "paused")),
    ("system_powerdown", ("POWERDOWN", "ok", "paused")),
    ("cont", ("RESUME", "ok", "running")),
)


def test_every_transition_has_its_state_and_its_event_before_the_reply(emulator_name: str) -> None:
    with machine(emulator_name, "-S") as vm:
        assert status(vm.qmp) == "prelaunch"
        for number, (command, expected) in enumerate(STEPS):
            given = answer(vm, command)
            if (command, expected[-1]) == ("system_reset", "running"):
                given = tuple(each for each in given if each != "RESET")
            assert given == expected, f"step {number}: {command}"
        resets = [data for name, data in events(vm) if name == "RESET"]
        assert resets == [{"guest": False, "reason": "host-qmp-system-reset"}] * 3
        vm.serial.expect("@", GUEST_TIMEOUT_S)
        vm.qmp.cmd("quit")
        assert vm.wait_exit(10) == 0
        assert events(vm)[-1] == ("SHUTDOWN", {"guest": False, "reason": "host-qmp-quit"})


@pytest.mark.parametrize("how", RESETS)
def test_guest_resets_itself(emulator_name: str, how: str) -> None:
    with machine(emulator_name) as vm:
        tell(vm, how)
        vm.serial.expect("@", GUEST_TIMEOUT_S)  # it starts again
        assert "!" not in vm.serial.text  # and ran no instruction after the one that reset it
        assert events(vm) == [("RESET", {"guest": True, "reason": "guest-reset"})]
        assert status(vm.qmp) == "running"


@pytest.mark.parametrize("how", RESETS)
def test_no_reboot_ends_instead(emulator_name: str, how: str) -> None:
    with machine(emulator_name, "-no-reboot") as vm:
        tell(vm, how)
        assert vm.wait_exit(GUEST_TIMEOUT_S) == 0
        assert vm.serial.text == "@"
        assert events(vm) == [("SHUTDOWN", {"guest": True, "reason": "guest-reset"})]


@pytest.mark.parametrize(("options", "how", "reason"), [
    (("-no-shutdown",), "power off", "guest-shutdown"),
    (("-no-shutdown", "-no-reboot"), "keyboard controller", "guest-reset"),
])  # fmt: skip
def test_no_shutdown_keeps_the_process_until_a_reset(
    emulator_name: str, options: tuple[str, ...], how: str, reason: str
) -> None:
    with machine(emulator_name, *options) as vm:
        tell(vm, how)
        vm.qmp.wait_event("STOP", GUEST_TIMEOUT_S)
        assert events(vm) == [("SHUTDOWN", {"guest": True, "reason": reason}), ("STOP", None)]
        assert status(vm.qmp) == "shutdown"
        assert answer(vm, "cont") == (NEEDS_RESET, "shutdown")
        assert answer(vm, "stop") == ("ok", "shutdown")
        if "-no-reboot" in options:
            assert answer(vm, "system_reset") == ("SHUTDOWN", "ok", "shutdown")
            return
        assert answer(vm, "system_reset") == ("RESET", "ok", "prelaunch")
        assert answer(vm, "cont") == ("RESUME", "ok", "running")
        vm.serial.expect("@", GUEST_TIMEOUT_S)
        vm.serial.send("x")
        vm.serial.expect("x", GUEST_TIMEOUT_S)


def test_power_off_ends_the_process(emulator_name: str) -> None:
    with machine(emulator_name) as vm:
        tell(vm, "power off")
        assert vm.wait_exit(GUEST_TIMEOUT_S) == 0
        if emulator_name == "vmmd":  # QEMU runs a few instructions more after the one that powers off
            assert vm.serial.text == "@"
        assert events(vm) == [("SHUTDOWN", {"guest": True, "reason": "guest-shutdown"})]


def test_reset_of_a_machine_that_never_ran_with_no_reboot(emulator_name: str) -> None:
    with machine(emulator_name, "-S", "-no-reboot", "-no-shutdown") as vm:
        assert answer(vm, "system_reset") == ("SHUTDOWN", "ok", "prelaunch")
        assert answer(vm, "cont") == ("RESUME", "ok", "running")
    with machine(emulator_name, "-S", "-no-reboot") as vm:
        vm.qmp.start("system_reset")
        assert vm.wait_exit(10) == 0
        assert events(vm) == [("SHUTDOWN", {"guest": False, "reason": "host-qmp-system-reset"})]


@pytest.mark.parametrize("options", [(), ("-no-shutdown", "-no-reboot")], ids=["plain", "no-shutdown,no-reboot"])
def test_debug_exit_ends_with_its_status_whatever_the_options(emulator_name: str, options: tuple[str, ...]) -> None:
    with machine(emulator_name, "-device", "isa-debug-exit", *options) as vm:
        tell(vm, "debug exit")
        assert vm.wait_exit(GUEST_TIMEOUT_S) == 0x15 << 1 | 1
        assert vm.serial.text == "@"


def test_internal_error_stops_with_registers_in_the_log_and_a_reset_revives(emulator_name: str) -> None:
    with machine(emulator_name) as vm:
        tell(vm, "code in a hole")
        vm.qmp.wait_event("STOP", GUEST_TIMEOUT_S)
        assert status(vm.qmp) == "internal-error"
        text = vm.stderr()
        assert "KVM internal error. Suberror: 1" in text
        assert "EIP=80000000" in text
        assert "CS =0008 00000000 ffffffff" in text
        assert answer(vm, "cont") == (NEEDS_RESET, "internal-error")
        assert answer(vm, "system_reset") == ("RESET", "ok", "prelaunch")
        assert answer(vm, "cont") == ("RESUME", "ok", "running")
        vm.serial.expect("@", GUEST_TIMEOUT_S)
        assert [name for name, _ in events(vm)] == ["STOP", "RESET", "RESUME"]


def test_internal_error_with_no_reboot_and_no_shutdown_survives_a_reset_request(emulator_name: str) -> None:
    with machine(emulator_name, "-no-reboot", "-no-shutdown") as vm:
        tell(vm, "code in a hole")
        vm.qmp.wait_event("STOP", GUEST_TIMEOUT_S)
        assert answer(vm, "system_reset") == ("SHUTDOWN", "ok", "internal-error")
