# SPDX-License-Identifier: Apache-2.0
"""Trace events and the log from a monitor."""

from __future__ import annotations

import json
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.unit.qmp_support import FakeVm, ManualLoop, Monitor, run_to_end
from vmmd.core import trace
from vmmd.core.trace import EVENTS, GUEST_ERRORS, UNIMP
from vmmd.core.trace_events import (
    HANDLE_HMP_COMMAND,
    HANDLE_QMP_COMMAND,
    KVM_RUN_EXIT,
    MONITOR_QMP_RESPOND,
    VIRTIO_QUEUE_NOTIFY,
    VIRTIO_SET_STATUS,
)
from vmmd.core.trace_output import TraceOutput
from vmmd.errors import DeviceNotFoundError, UsageError
from vmmd.qmp.hmp.monitor import HumanMonitor
from vmmd.qmp.registry import load
from vmmd.qmp.session import NO_ID, Request
from vmmd.qmp.trace_text import line_text, request_text, response_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def vm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeVm]:
    """Two vCPUs. What is reported goes to the file ``log``; all is off afterwards."""
    output = TraceOutput()
    output.set_file(str(tmp_path / "log"))
    output.allow()
    monkeypatch.setattr(trace, "output", output)
    monkeypatch.setattr("vmmd.qmp.hmp.trace.output", output)
    vm = FakeVm(ManualLoop())
    vm.devices += cast("list[Any]", [SimpleNamespace(name="disk0"), SimpleNamespace(name="disk1")])
    yield vm
    for event in EVENTS.values():
        event.switch(on=False)
    trace.log_nothing()
    output.close()


def ask(vm: FakeVm, command: str, /, **arguments: object) -> Any:
    wanted = {key.replace("_", "-"): value for key, value in arguments.items()}
    return run_to_end(HumanMonitor(vm).qmp(command, wanted), vm.loop)


def say(vm: FakeVm, line: str) -> str:
    return run_to_end(HumanMonitor(vm).run(line), vm.loop).replace("\r\n", "\n")


def test_events_are_switched_and_shown(vm: FakeVm) -> None:
    assert ask(vm, "trace-event-set-state", name="virtio_set_*", enable=True, ignore_unavailable=True) == {}
    assert VIRTIO_SET_STATUS.on
    assert ask(vm, "trace-event-get-state", name="virtio_set_status") == [
        {"name": "virtio_set_status", "state": "enabled", "vcpu": False}
    ]
    states = {each["name"]: each["state"] for each in ask(vm, "trace-event-get-state", name="*")}
    assert list(states) == list(EVENTS)
    assert [name for name, state in states.items() if state == "enabled"] == ["virtio_set_status"]


def test_events_of_one_vcpu(vm: FakeVm) -> None:
    ask(vm, "trace-event-set-state", name="kvm_run_exit", enable=True, vcpu=1)
    assert (KVM_RUN_EXIT.is_on(0), KVM_RUN_EXIT.is_on(1)) == (False, True)
    assert ask(vm, "trace-event-get-state", name="kvm_run_exit", vcpu=0)[0]["state"] == "disabled"
    assert ask(vm, "trace-event-get-state", name="kvm_run_exit") == [
        {"name": "kvm_run_exit", "state": "enabled", "vcpu": True}
    ]
    assert all(each["vcpu"] for each in ask(vm, "trace-event-get-state", name="*", vcpu=0))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"name": "nope"}, 'unknown event "nope"'),
        ({"name": "virtio_set_status", "vcpu": 0}, 'event "virtio_set_status" is not vCPU-specific'),
        ({"name": "kvm_run_exit", "vcpu": 2}, "invalid vCPU index 2"),
        ({"name": "kvm_*", "vcpu": -1}, "invalid vCPU index -1"),
    ],
)
def test_events_that_cannot_be_switched_are_refused(vm: FakeVm, arguments: dict[str, object], sentence: str) -> None:
    for command, more in (("trace-event-get-state", {}), ("trace-event-set-state", {"enable": True})):
        with pytest.raises(UsageError) as raised:
            ask(vm, command, **arguments, **more)
        assert str(raised.value).startswith(sentence)
    assert not any(event.on for event in EVENTS.values())


def test_events_of_one_device(vm: FakeVm) -> None:
    def switch(enable: bool, name: str = "virtio_*", device: str = "disk0") -> Any:
        return ask(vm, "__org.vmmd_trace-device", device=device, name=name, enable=enable)

    switch(True)
    switch(True, device="disk1")
    assert VIRTIO_QUEUE_NOTIFY.only == {"disk0", "disk1"}
    switch(False)
    assert (VIRTIO_QUEUE_NOTIFY.is_on("disk0"), VIRTIO_QUEUE_NOTIFY.is_on("disk1")) == (False, True)
    switch(False, device="disk1")
    assert not VIRTIO_QUEUE_NOTIFY.on
    with pytest.raises(UsageError, match='event "runstate_set" is not device-specific'):
        switch(True, "runstate_set")
    VIRTIO_QUEUE_NOTIFY.switch(on=True)
    with pytest.raises(UsageError, match='event "virtio_queue_notify" is on for all devices'):
        switch(False)
    assert VIRTIO_QUEUE_NOTIFY.on


@pytest.mark.parametrize("enable", [True, False])
def test_events_of_a_device_that_is_not_there_are_refused(vm: FakeVm, enable: bool) -> None:
    with pytest.raises(DeviceNotFoundError, match=r"Device 'dsk0' not found; did you mean 'disk0'\?"):
        ask(vm, "__org.vmmd_trace-device", device="dsk0", name="virtio_*", enable=enable)
    assert VIRTIO_QUEUE_NOTIFY.only is None
    for name in ("c0", "apic", "rtc"):  # a character device, ranges of info mtree
        ask(vm, "__org.vmmd_trace-device", device=name, name="memory_region_ops_read", enable=True)


def test_events_of_a_device_that_is_gone_can_be_switched_off(vm: FakeVm) -> None:
    ask(vm, "__org.vmmd_trace-device", device="disk0", name="virtio_*", enable=True)
    vm.devices.clear()
    ask(vm, "__org.vmmd_trace-device", device="disk0", name="virtio_*", enable=False)
    assert not VIRTIO_QUEUE_NOTIFY.on


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("trace-device nix on virtio_set_status", "Device 'nix' not found\n"),
        ("trace-event virtio_set_status on", ""),
        ("trace-event nope on", 'unknown event "nope"; * lists all events\n'),
        ("trace-event virtio_set_status", "Expected 'on' or 'off'\nTry \"help trace-event\" for more information\n"),
        ("trace-event", 'trace-event: string expected\nTry "help trace-event" for more information\n'),
        ("info trace-events runstate*", "runstate_set : state 0\n"),
        ("info trace-events nope", 'unknown event "nope"; * lists all events\n'),
        ("log", 'log: string expected\nTry "help log" for more information\n'),
        ("log foo", "'foo' is no log item of this version; there are: guest_errors, unimp, cpu_reset, trace:PATTERN\n"),
        ("log trace:nope", "warning: trace event 'nope' does not exist\n"),
        ("logfile", 'logfile: filename expected\nTry "help logfile" for more information\n'),
        ("logfile /none/x", "Error opening logfile /none/x: No such file or directory\n"),
    ],
)
def test_hmp_answers(vm: FakeVm, line: str, text: str) -> None:
    assert say(vm, line) == text


def test_hmp_switches(vm: FakeVm, tmp_path: Path) -> None:
    say(vm, "trace-event kvm_run_exit on 1")
    assert KVM_RUN_EXIT.only == {1}
    say(vm, "trace-device disk0 on virtio_set_status")
    assert VIRTIO_SET_STATUS.only == {"disk0"}
    assert say(vm, "log guest_errors,unimp") == ""
    assert (GUEST_ERRORS.on, UNIMP.on) == (True, True)
    say(vm, f"logfile {tmp_path}/other")
    UNIMP("told")
    assert trace.output.settle(10)
    assert (tmp_path / "other").read_text() == "told\n"
    say(vm, "log none")
    assert (GUEST_ERRORS.on, UNIMP.on, KVM_RUN_EXIT.on) == (False, False, True)
    assert say(vm, "log help").splitlines()[1] == "none            nothing of these"


def test_requests_and_replies_are_shown_without_secrets(vm: FakeVm, tmp_path: Path) -> None:
    with Monitor() as monitor, monitor.connect() as client, client.makefile("rw") as stream:
        stream.readline()
        for line in ('{"execute": "qmp_capabilities"}', '{"execute": "query-name"}'):
            if "query" in line:
                monitor.call(lambda: [event.switch(on=True) for event in (HANDLE_QMP_COMMAND, MONITOR_QMP_RESPOND)])
            stream.write(line + "\n")
            stream.flush()
            stream.readline()
    assert trace.output.settle(10)
    request, reply = (tmp_path / "log").read_text().splitlines()
    assert request.startswith("handle_qmp_command mon 0x")
    assert request.endswith(' req: {"execute": "query-name"}')
    assert reply.endswith(' resp: {"return": {"name": "foo"}}')


def test_a_log_file_is_opened_on_a_thread(vm: FakeVm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    set_file = trace.output.set_file

    def noted(path: str) -> None:
        threads.append(threading.get_ident())
        set_file(path)

    monkeypatch.setattr(trace.output, "set_file", noted)
    assert say(vm, f"logfile {tmp_path}/other") == ""
    assert threads not in ([], [threading.get_ident()])


SECRET = "hunter2"


@pytest.mark.parametrize(
    "line",
    [
        f"object_add secret,id=s2,data={SECRET}",
        f'object_add "secret,data=a {SECRET},id=s2"',
        f'object_add {{"qom-type":"secret","id":"s2","data":"{SECRET}"}}',
        f'object_add "{{\\"id\\":\\"s2\\",\\"data\\" : \\"{SECRET}\\"}}"',
        f"qom-set /objects/s2 data {SECRET}",
        f"set_password vnc {SECRET}",
        f"change vnc password {SECRET}",
        f"drive_add 0 file.driver=x,Password={SECRET}",
        f"chardev-add x,tls-passphrase={SECRET}",
    ],
)
def test_lines_are_shown_without_secrets(vm: FakeVm, tmp_path: Path, line: str) -> None:
    HANDLE_HMP_COMMAND.switch(on=True)
    say(vm, line)
    assert trace.output.settle(10)
    name = line.split()[0]
    assert name in (tmp_path / "log").read_text()
    assert SECRET not in (tmp_path / "log").read_text()
    command = Request(load()["human-monitor-command"], {"command-line": line}, NO_ID, oob=False)
    assert name in request_text(command)
    assert SECRET not in request_text(command)


@pytest.mark.parametrize(
    "line",
    [
        "info status", "sendkey ctrl-a", "object_add secret,id=s,file=/run/key,keyid=master", "qom-get /objects/s data",
        "blockdev-add password-secret=sec0", "memsave 0 16 data", "savedata 1",
    ],
)  # fmt: skip
def test_lines_without_secrets_are_shown_as_they_are(line: str) -> None:
    assert line_text(line) == line


def test_long_lines_are_cut() -> None:
    assert line_text("x" * 100_000) == "x" * 4096 + "… (100000 characters)"
    assert line_text("data " * 50_000) == "data (not shown)"


def test_the_value_beside_its_name_is_no_exception() -> None:
    arguments = {"path": "/objects/s", "property": "data", "value": SECRET}
    shown = json.loads(request_text(Request(load()["qom-set"], dict(arguments), NO_ID, oob=False)))
    assert shown["arguments"] == {**arguments, "value": "(not shown)"}


def test_secrets_and_long_texts_are_cut() -> None:
    spec = load()["object-add"]
    arguments = {"qom-type": "secret", "id": "s0", "data": "pass", "list": [{"password": "word", "file": "x"}]}
    shown = json.loads(request_text(Request(spec, dict(arguments), NO_ID, oob=True)))
    hidden = "(not shown)"
    assert shown == {
        "exec-oob": "object-add",
        "arguments": {**arguments, "data": hidden, "list": [{"password": hidden, "file": "x"}]},
    }
    assert response_text(b"x" * 100_000) == "x" * 4096 + "… (100000 characters)"
