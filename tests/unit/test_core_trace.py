# SPDX-License-Identifier: Apache-2.0
"""Trace events: declarations, switching, and the writer that never holds anybody up."""

from __future__ import annotations

import ast
import fcntl
import os
import re
import select
import termios
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import vmmd
from vmmd.core import trace, trace_events, trace_output
from vmmd.core.access_trace import AccessTrace
from vmmd.core.address_space import AddressSpace, IoRange
from vmmd.core.trace import EVENTS, GUEST_ERRORS, LogRequest, TraceEvent, find
from vmmd.core.trace_output import TraceOutput
from vmmd.errors import BackendError, UsageError
from vmmd.log import get_logger
from vmmd.messages import messages

if TYPE_CHECKING:
    from collections.abc import Iterator

SETTLE_S = 10.0


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    """Everything that is reported goes to a file; afterwards all is off again."""
    made = Log(tmp_path / "log")
    monkeypatch.setattr(trace, "output", made.output)
    yield made
    for event in EVENTS.values():
        event.switch(on=False)
    trace.log_nothing()
    made.output.close()


class Log:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.output = TraceOutput()
        self.output.set_file(str(path))
        self.output.allow()

    def lines(self) -> list[str]:
        assert self.output.settle(SETTLE_S)
        return self.path.read_text().splitlines()


# -- declarations ------------------------------------------------------------------------------------------------------


def test_every_use_of_an_event_has_its_fields() -> None:
    names = {name: event for name, event in vars(trace_events).items() if isinstance(event, TraceEvent)}
    used: set[str] = set()
    for path in Path(vmmd.__file__).parent.rglob("*.py"):
        text = path.read_text("utf-8")
        if "trace_events import" not in text:
            continue
        used |= names.keys() & set(re.findall(r"\b[A-Z][A-Z0-9_]+\b", text))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
                starred = any(isinstance(argument, ast.Starred) for argument in node.args)
                fields = names[node.func.id].fields
                assert starred or len(node.args) == len(fields), f"{path.name}:{node.lineno}"
    assert used == set(names), "declared, and nowhere used"


def test_every_event_makes_its_line(log: Log) -> None:
    for event in EVENTS.values():
        event.switch(on=True)
        event(*(7 for _ in event.fields))
    lines = log.lines()
    assert [line.split(" ")[0] for line in lines] == list(EVENTS)
    assert not [line for line in lines if "cannot be made" in line]
    assert "pci_cfg_read 7 07:07.7 @0x7 -> 0x7" in lines


# -- switching ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("virtio_set_status", ["virtio_set_status"]),
        ("runstate*", ["runstate_set"]),
        ("p*_cfg_*", ["pci_cfg_read", "pci_cfg_write"]),
        ("*cfg_w*e", ["pci_cfg_write"]),
        ("kvm*kvm*", []),
        ("*_*_*_*_*_*", []),
        ("nope*", []),
        ("*", list(EVENTS)),
    ],
)
def test_patterns(pattern: str, names: list[str]) -> None:
    assert [event.name for event in find(pattern)] == names


@pytest.mark.parametrize("name", ["nope", "", "runstate_se?"])
def test_a_name_that_there_is_not_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f'unknown event "{name}"')):
        find(name)


def test_an_event_for_some_vcpus_only(log: Log) -> None:
    event = trace_events.KVM_RUN_EXIT
    event.switch(on=True, subject=1, everyone=range(3))
    assert (event.on, event.is_on(0), event.is_on(1)) == (True, False, True)
    event(0, 2)
    event(1, 2)
    event.switch(on=True)
    event.switch(on=False, subject=1, everyone=range(3))
    event(1, 6)
    event(2, 6)
    event.switch(on=False, subject=0, everyone=range(3))
    event.switch(on=False, subject=2, everyone=range(3))
    assert not event.on
    assert log.lines() == ["kvm_run_exit cpu_index 1, reason 2", "kvm_run_exit cpu_index 2, reason 6"]


def test_an_event_for_some_devices_only(log: Log) -> None:
    event = trace_events.VIRTIO_SET_STATUS
    event.switch(on=True, subject="disk1")
    event("disk0", 1)
    event("disk1", 2)
    assert log.lines() == ["virtio_set_status vdev disk1 val 2"]


def test_watchers_are_told_until_they_undo(log: Log) -> None:
    told: list[bool] = []
    event = trace_events.RUNSTATE_SET
    undo = event.watch(lambda: told.append(event.on))
    event.switch(on=True)
    event.switch(on=False)
    undo()
    event.switch(on=True)
    assert told == [True, False]


def test_log_items_are_checked_before_anything_changes(log: Log) -> None:
    assert LogRequest("guest_errors,trace:runstate_*,trace:nope").apply() == ["trace event 'nope' does not exist"]
    assert (GUEST_ERRORS.on, trace_events.RUNSTATE_SET.on) == (True, True)
    for wrong in ("", "unimp,foo", "in_asm", "none"):
        with pytest.raises(UsageError, match="is no log item of this version"):
            LogRequest(wrong)
    assert GUEST_ERRORS.on
    LogRequest("unimp").apply()
    assert not GUEST_ERRORS.on
    trace.log_nothing()
    assert trace_events.RUNSTATE_SET.on, "trace events stay as they are"


def test_events_from_a_file(log: Log, tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_text("# what I want\n\n  pci_*  \n-pci_cfg_write\nnope\n")
    assert trace.enable_from_file(str(path)) == [f"{path}:5: trace event 'nope' does not exist"]
    assert (trace_events.PCI_CFG_READ.on, trace_events.PCI_CFG_WRITE.on) == (True, False)
    with pytest.raises(BackendError, match="No such file"):
        trace.enable_from_file(str(tmp_path / "none"))


# -- the writer --------------------------------------------------------------------------------------------------------


def test_with_timestamps_lines_begin_as_qemus(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "timestamp", True)
    before = time.time()
    trace_events.PM_SLEEP(5)
    line = log.lines()[0]
    found = re.fullmatch(r"(\d+)@(\d+\.\d{6}):pm_sleep type 5", line)
    assert found is not None, line
    assert int(found[1]) == threading.get_native_id()
    assert before - 1 <= float(found[2]) <= time.time() + 1


def test_values_cannot_steer_the_terminal_or_make_lines(log: Log) -> None:
    trace_events.VIRTIO_BROKEN("disk0", "a\x1b[2J\nb")
    GUEST_ERRORS("one\ntwo")
    assert log.lines() == ["virtio_broken vdev disk0 a\\x1b[2J b", "one", "two"]


def test_a_full_pipe_holds_nobody_up_and_lost_lines_are_counted() -> None:
    read_end, write_end = os.pipe()
    output = TraceOutput(write_end)
    output.allow()
    output.needed()
    fcntl.fcntl(read_end, fcntl.F_SETPIPE_SZ, 4096)
    count = trace_output.QUEUE_MAX + 3000
    start = time.monotonic()
    for number in range(count):
        output.put(lambda values: f"line {values[0]}", (number,))
    assert time.monotonic() - start < SETTLE_S  # the writer waits for the pipe all the while
    assert output.dropped >= 3000 - 2 * 256 - 4096 // 7
    text = bytearray()
    threading.Thread(target=lambda: (output.settle(SETTLE_S), output.close(), os.close(write_end))).start()
    while chunk := os.read(read_end, 65536):
        text += chunk
    os.close(read_end)
    lines = text.decode().splitlines()
    written = [line for line in lines if line.startswith("line ")]
    notes = [line for line in lines if line.startswith("vmmd: ")]
    assert written[0] == "line 0"
    assert len(written) + output.dropped == count
    assert [int(note.split()[1]) for note in notes] == [output.dropped]


def test_the_log_of_a_running_machine_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    read_end, write_end = os.pipe()
    output = TraceOutput(write_end)
    output.allow()
    monkeypatch.setattr(messages, "later", output.put_line)
    monkeypatch.setattr(messages, "timestamp", True)
    log = get_logger("vmmd.test")
    for number in range(2000):  # far more than the pipe takes
        log.warning("number %d of\nmany", number)
    got, deadline = b"", time.monotonic() + 30
    os.set_blocking(read_end, False)
    while got.count(b"\n") < 4000:
        assert time.monotonic() < deadline, got[-200:]
        if select.select([read_end], [], [], 1)[0]:
            got += os.read(read_end, 65536)
    lines = got.decode().splitlines()
    assert re.fullmatch(r"\S+Z vmmd: warning: number 0 of", lines[0])
    assert lines[1::2] == ["many"] * 2000
    output.close()
    os.close(read_end)
    os.close(write_end)


def test_a_reader_that_has_gone_ends_nothing() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    output = TraceOutput(write_end)
    output.allow()
    output.put(lambda values: "x", ())
    assert output.settle(SETTLE_S)
    assert output.dropped == 1
    output.close()
    os.close(write_end)


def test_files_change_between_lines_and_are_begun_anew(log: Log, tmp_path: Path) -> None:
    second = tmp_path / "second-%d"
    real = tmp_path / f"second-{os.getpid()}"
    real.write_text("old\n")
    assert log.lines() == []  # the first file is in use: one that is still to come would be replaced
    trace_events.PM_SLEEP(1)
    log.output.set_file(str(second))
    trace_events.PM_SLEEP(2)
    assert log.lines() == ["pm_sleep type 1"]
    assert real.read_text() == "pm_sleep type 2\n"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("%s", "Bad logfile template: {}"),
        ("%d%d", "Bad logfile template: {}"),
        ("none/log", "Error opening logfile {}: No such file or directory"),
    ],
)
def test_log_files_that_cannot_be_are_refused(log: Log, tmp_path: Path, name: str, sentence: str) -> None:
    path = str(tmp_path / name)
    with pytest.raises((UsageError, BackendError)) as raised:
        log.output.set_file(path)
    assert str(raised.value).startswith(sentence.format(path))
    trace_events.PM_SLEEP(1)
    assert log.lines() == ["pm_sleep type 1"], "the old file is still there"


def test_a_fifo_without_a_reader_is_refused_and_not_waited_for(log: Log, tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    with pytest.raises(BackendError, match="No such device or address"):
        log.output.set_file(str(path))


@pytest.mark.parametrize("blocking", [True, False])
def test_another_file_takes_over_from_one_that_takes_nothing(tmp_path: Path, blocking: bool) -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, blocking)
    output = TraceOutput(write_end)
    output.needed()
    output.allow()
    for _ in range(1000):
        output.put(lambda values: "x" * 1000, ())
    deadline = time.monotonic() + SETTLE_S
    while len(fcntl.ioctl(read_end, termios.FIONREAD, bytes(4)).strip(b"\0")) == 0:
        assert time.monotonic() < deadline
    descriptors = len(os.listdir("/proc/self/fd"))
    for number in range(50):
        output.set_file(str(tmp_path / f"log{number}"))
        assert len(os.listdir("/proc/self/fd")) <= descriptors + 3
    output.put(lambda values: "after", ())
    assert output.settle(SETTLE_S)
    assert "after" in (tmp_path / "log49").read_text().splitlines()
    notes = [line for log in tmp_path.iterdir() for line in log.read_text().splitlines() if line.startswith("vmmd: ")]
    assert sum(int(note.split()[1]) for note in notes) == output.dropped > 0
    assert output.path == str(tmp_path / "log49")
    output.close()
    os.close(read_end)
    os.close(write_end)


def test_only_the_last_file_waits_for_the_writer(tmp_path: Path) -> None:
    output = TraceOutput()
    descriptors = len(os.listdir("/proc/self/fd"))
    for number in range(50):
        output.set_file(str(tmp_path / f"log{number}"))
    assert len(os.listdir("/proc/self/fd")) == descriptors + 1
    assert len(output._queue) == 1
    output.put(lambda values: "line", ())
    output.allow()
    assert output.settle(SETTLE_S)
    assert (tmp_path / "log49").read_text() == "line\n"
    output.close()


def test_nothing_is_written_before_the_process_is_what_it_stays(tmp_path: Path) -> None:
    output = TraceOutput()
    output.set_file(str(tmp_path / "log"))
    output.needed()
    output.put(lambda values: "early", ())
    assert output._thread is None
    output.allow()
    assert output.settle(SETTLE_S)
    assert (tmp_path / "log").read_text() == "early\n"
    output.close()


# -- accesses ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def space(log: Log) -> Iterator[AddressSpace]:
    made = AddressSpace("memory", 1 << 20)
    watch = AccessTrace((made,), threading.Lock())
    yield made
    watch.close()


def uart(base: int) -> IoRange:
    events = (trace_events.SERIAL_READ, trace_events.SERIAL_WRITE, "com1")
    return IoRange(base, 8, lambda offset, size: offset, lambda *_: None, name="serial", max_width=1, events=events)


def test_ranges_report_while_that_is_wanted_and_have_their_own_handlers_otherwise(
    log: Log, space: AddressSpace
) -> None:
    before, later = uart(0x100), uart(0x200)
    space.add(before)
    plain = before.plain
    trace_events.MEMORY_REGION_OPS_READ.switch(on=True)
    trace_events.SERIAL_WRITE.switch(on=True)
    space.update([], [later])  # as a BAR that moves
    assert space.read(0x105, 1) == 5
    space.write(0x101, 1, 0x41)
    assert space.read(0x206, 1) == 6
    trace_events.MEMORY_REGION_OPS_READ.switch(on=False)
    trace_events.SERIAL_WRITE.switch(on=False)
    assert (before.read, before.write) == plain
    assert (later.read, later.write) == later.plain
    assert log.lines() == [
        "memory_region_ops_read cpu -1 addr 0x105 value 0x5 size 1 name 'serial'",
        "serial_write write addr 0x01 val 0x41 dev com1",
        "memory_region_ops_read cpu -1 addr 0x206 value 0x6 size 1 name 'serial'",
    ]


def test_accesses_of_one_range_only(log: Log, space: AddressSpace) -> None:
    space.add(uart(0x100))
    space.add(IoRange(0x200, 4, lambda *_: 1, lambda *_: None, name="rtc"))
    trace_events.MEMORY_REGION_OPS_READ.switch(on=True, subject="rtc")
    space.read(0x100, 1)
    space.read(0x200, 4)
    assert log.lines() == ["memory_region_ops_read cpu -1 addr 0x200 value 0x1 size 4 name 'rtc'"]


def test_accesses_to_nothing(log: Log, space: AddressSpace) -> None:
    assert space.on_unassigned is None
    space.read(0x500, 4)
    trace_events.UNASSIGNED_WRITE.switch(on=True)
    GUEST_ERRORS.switch(on=True)
    space.read(0x500, 4)
    space.write(0x504, 2, 7)
    assert log.lines() == [
        "Invalid read at addr 0x500, size 4: nothing is there",
        "unassigned_write cpu -1 memory addr 0x504 value 0x7 size 2",
        "Invalid write at addr 0x504, size 2: nothing is there",
    ]
    GUEST_ERRORS.switch(on=False)
    trace_events.UNASSIGNED_WRITE.switch(on=False)
    assert space.on_unassigned is None


def test_a_pattern_is_read_once_however_long_it_is() -> None:
    everything = find("*")
    begins_ns = time.thread_time_ns()
    assert find("*" * 1_000_000) == everything
    assert find("**virtio**set***status**") == find("*virtio*set*status*") != []
    assert time.thread_time_ns() - begins_ns < 1_000_000_000  # once for each event it took 15 s
