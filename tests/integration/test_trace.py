# SPDX-License-Identifier: Apache-2.0
"""Trace events of a running machine, and of vmmd as a process: -trace, -d, -D."""

from __future__ import annotations

import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from tests.framework.vm import Vm, emulator
from tests.integration.kvm_guest import TinyVm
from vmmd.core import trace
from vmmd.core.address_space import IoRange
from vmmd.core.trace_events import KVM_RUN_EXIT
from vmmd.core.trace_output import TraceOutput

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.kvm

#: out 0x80 for ever
OUT_LOOP = bytes.fromhex("e680 ebfc")
MACHINE = ["-accel", "kvm", "-cpu", "qemu64,-cx16,-pni,-xsave", "-m", "32", "-nodefaults"]
IO_EXIT = 2


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[TraceOutput]:
    made = TraceOutput()
    made.set_file(str(tmp_path / "log"))
    made.allow()
    monkeypatch.setattr(trace, "output", made)
    yield made
    KVM_RUN_EXIT.switch(on=False)
    made.close()


def test_exits_of_a_running_vcpu_are_reported_from_when_that_is_wanted_until_it_is_not(
    output: TraceOutput, tmp_path: Path
) -> None:
    vm = TinyVm(OUT_LOOP)
    entered = threading.Semaphore(0)
    vm.pio.add(IoRange(0x80, 1, lambda *_: 0, lambda *_: entered.release(), name="post"))

    def pass_exits(count: int) -> None:
        for _ in range(count):
            assert entered.acquire(timeout=10)

    try:
        vm.cpus.resume()
        pass_exits(10)
        assert output.settle(10)
        assert (tmp_path / "log").read_text() == ""
        KVM_RUN_EXIT.switch(on=True, subject=1, everyone=range(2))  # another vCPU: not this one's exits
        pass_exits(10)
        KVM_RUN_EXIT.switch(on=True)
        while not output.settle(10) or not (tmp_path / "log").read_text():
            pass_exits(1)
        KVM_RUN_EXIT.switch(on=False)
        vm.pause()  # the vCPU has left its loop since then
        assert output.settle(10)
        text = (tmp_path / "log").read_text()
        assert set(text.splitlines()) == {f"kvm_run_exit cpu_index 0, reason {IO_EXIT}"}
        vm.cpus.resume()
        pass_exits(100)
        assert output.settle(10)
        assert (tmp_path / "log").read_text() == text
    finally:
        vm.close()


def test_options_trace_from_the_first_event_to_the_end(tmp_path: Path) -> None:
    events, log = tmp_path / "events", tmp_path / "log"
    events.write_text("# machine\nkvm_init_vcpu\nrunstate_*\nnope\n")
    options = [
        "-trace",
        f"events={events}",
        "-trace",
        "qemu_system*",
        "-d",
        "cpu_reset,trace:qdev_reset",
        "-D",
        str(log),
    ]
    with Vm(emulator("vmmd"), [*MACHINE, "-S", *options], serial=False) as vm:
        stderr = (vm.directory / "stderr").read_text()
        assert f"warning: {events}:4: trace event 'nope' does not exist" in stderr
        vm.qmp.cmd("cont")
        vm.qmp.cmd("system_reset")
        vm.qmp.cmd("quit")
        vm.qmp.wait_closed()
    lines = log.read_text().splitlines()
    told = [line for line in lines if line.split(" ")[0] in ("kvm_init_vcpu", "runstate_set", "CPU", "EAX=00000000")]
    assert lines[-1] == "qemu_system_shutdown_request reason=host-qmp-quit", "nothing is lost at the end"
    assert told[0] == "kvm_init_vcpu index: 0 id: 0"
    assert "runstate_set current_run_state prelaunch new_state running" in told
    assert told.count("CPU Reset (CPU 0)") >= 2
    assert "qdev_reset obj=i440FX(i440FX)" in lines


def test_a_log_file_that_cannot_be_opened_ends_the_start(tmp_path: Path) -> None:
    path = tmp_path / "none" / "log"
    run = subprocess.run(
        [*emulator("vmmd").command, *MACHINE, "-D", str(path)], capture_output=True, text=True, timeout=30
    )
    assert (run.returncode, run.stderr) == (1, f"vmmd: -D: Error opening logfile {path}: No such file or directory\n")
