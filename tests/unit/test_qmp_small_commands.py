# SPDX-License-Identifier: Apache-2.0
"""Commands that act on the machine as a whole: actions, NMI, memory to a file, clocks."""

from __future__ import annotations

import os
import resource
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from tests.framework.qmp import Qmp, QmpError
from tests.unit.qmp_support import RAM_BYTES, FakeVm, ManualLoop, Monitor
from vmmd.errors import BackendError
from vmmd.qmp.commands.misc import x_exit_preconfig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def monitor() -> Iterator[Monitor]:
    with Monitor() as made:
        yield made


@pytest.fixture
def qmp(monitor: Monitor) -> Iterator[Qmp]:
    client = Qmp.connect(monitor.path)
    yield client
    client.close()


def test_set_action_changes_what_the_machine_does(monitor: Monitor, qmp: Qmp) -> None:
    config = monitor.vm.config
    assert not config.no_reboot
    qmp.cmd("set-action", reboot="shutdown", shutdown="pause")
    assert config.no_reboot
    assert config.no_shutdown
    assert config.action.panic == "shutdown"  # what was not named stays
    qmp.cmd("watchdog-set-action", action="pause")
    assert config.action.watchdog == "pause"
    assert qmp.cmd("human-monitor-command", **{"command-line": "watchdog_action none"}) == ""
    assert config.action.watchdog == "none"
    qmp.cmd("system_reset")  # a shutdown now, and that a pause
    assert [event["event"] for event in qmp.events] == ["SHUTDOWN"]
    qmp.cmd("set-action", reboot="reset", shutdown="poweroff")
    assert not config.no_reboot


def test_inject_nmi_waits_for_the_vcpus(monitor: Monitor, qmp: Qmp) -> None:
    before = monitor.vm.cpus.nmis
    assert qmp.cmd("inject-nmi") == {}
    assert monitor.vm.cpus.nmis == before + 1


def test_pmemsave_writes_what_is_in_memory(monitor: Monitor, qmp: Qmp, tmp_path: Path) -> None:
    monitor.vm.memory.write(0x1000, b"guest memory")
    out = tmp_path / "out"
    out.write_bytes(b"longer than what comes" * 9999)
    qmp.cmd("pmemsave", val=0x1000, size=12, filename=str(out))
    assert out.read_bytes() == b"guest memory"
    qmp.cmd("pmemsave", val=RAM_BYTES - 4096, size=3 << 20, filename=str(out))  # nothing is behind the RAM
    assert out.read_bytes() == bytes(3 << 20)


def test_memsave_walks_the_page_tables(monitor: Monitor, qmp: Qmp, tmp_path: Path) -> None:
    monitor.vm.memory.write(0xFFE, b"across a page")
    out = tmp_path / "out"
    qmp.cmd("memsave", val=0xFFE, size=13, filename=str(out))
    assert out.read_bytes() == b"across a page"


@pytest.mark.parametrize(
    ("command", "arguments", "sentence"),
    [
        ("pmemsave", {"val": 0, "size": 1 << 62}, "memory ends at"),
        ("pmemsave", {"val": -1, "size": 1}, "memory ends at"),
        ("pmemsave", {"val": 0, "size": -1}, "memory ends at"),
        ("memsave", {"val": 0, "size": RAM_BYTES + 1}, "size is at most"),
        ("memsave", {"val": 0, "size": -1}, "size is at most"),
        ("memsave", {"val": 1 << 30, "size": 2}, "a page of it is no memory"),
        ("memsave", {"val": RAM_BYTES - 1, "size": 2}, "a page of it is no memory"),
        ("memsave", {"val": -1, "size": 2}, "addresses end at 0xffff"),
        ("memsave", {"val": 0, "size": 1, "cpu-index": -1}, "Parameter 'cpu-index' expects a CPU number"),
    ],
)
def test_a_range_is_checked_before_the_file_is_made(
    qmp: Qmp, tmp_path: Path, command: str, arguments: dict[str, object], sentence: str
) -> None:
    with pytest.raises(QmpError, match=sentence):
        qmp.cmd(command, {**arguments, "filename": str(tmp_path / "out")})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("there_before", [False, True])
def test_a_write_that_fails_leaves_no_part_or_says_so(qmp: Qmp, tmp_path: Path, there_before: bool) -> None:
    out = tmp_path / "out"
    if there_before:
        out.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))  # of this process, where the monitor runs
    try:
        said = "not complete" if there_before else "the file was removed"
        with pytest.raises(QmpError, match=f"Could not write '{out}': File too large; .*{said}"):
            qmp.cmd("pmemsave", val=0, size=3 << 20, filename=str(out))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert out.exists() is there_before


def test_a_file_name_that_no_file_can_have(qmp: Qmp) -> None:
    with pytest.raises(QmpError, match="File name too long"):
        qmp.cmd("pmemsave", val=0, size=1, filename="/" + "x" * 5000)
    with pytest.raises(QmpError, match="NUL"):
        qmp.cmd("pmemsave", val=0, size=1, filename="/tmp/\0x")


@pytest.mark.parametrize("command", ["memsave", "pmemsave"])
@pytest.mark.parametrize("has_reader", [False, True])
def test_saving_to_a_pipe_is_refused(qmp: Qmp, tmp_path: Path, command: str, has_reader: bool) -> None:
    """Its reader may never come, or never read: the session would not be given back."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK) if has_reader else None
    with pytest.raises(QmpError, match=f"Could not open '{pipe}': it is a pipe or a socket"):
        qmp.cmd(command, val=0, size=16, filename=str(pipe))
    if reader is not None:
        os.close(reader)


def test_balloon_needs_a_device(qmp: Qmp) -> None:
    for command, arguments in (("balloon", {"value": 0}), ("balloon", {"value": 1 << 20}), ("query-balloon", {})):
        with pytest.raises(QmpError, match="No balloon device has been activated") as caught:
            qmp.cmd(command, **arguments)
        assert caught.value.error_class == "DeviceNotActive"


@pytest.mark.parametrize("error", [BackendError("Could not open 'd.img'"), MemoryError(), KeyError("a bug")])
def test_a_machine_that_is_half_built_ends_whatever_went_wrong(error: Exception) -> None:
    vm = FakeVm(ManualLoop())
    ends: list[int] = []
    vm.on_end = ends.append

    def build() -> None:
        raise error

    vm.put_off(build)
    with pytest.raises(type(error)):
        x_exit_preconfig(SimpleNamespace(vm=vm))
    assert ends == []  # the reply comes first
    vm.loop.run_posted()
    assert ends == [1]
