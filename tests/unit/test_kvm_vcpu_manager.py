# SPDX-License-Identifier: Apache-2.0
"""The vCPU manager's states with vCPUs that run no guest: a fake KVM_RUN returns when ``immediate_exit`` is set."""

from __future__ import annotations

import errno
import os
import random
import select
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.fakes import ImmediateLoop, RecordingRequests, make_context
from vmmd.errors import StateError
from vmmd.kvm.cpuid import Topology
from vmmd.kvm.ioctl import KvmError
from vmmd.machine import cpus
from vmmd.machine.cpus import VcpuManager

if TYPE_CHECKING:
    from collections.abc import Iterator

COUNT = 3
IMMEDIATE_EXIT = 1


class FakeVm:
    clock = 1000
    set_clock: int | None = None

    def create_vcpu(self, apic_id: int) -> FakeVcpu:
        return FakeVcpu(self)

    def clock_ns(self) -> int:
        return self.clock

    def set_clock_ns(self, clock_ns: int) -> None:
        self.set_clock = clock_ns


class FakeVcpu:
    def __init__(self, vm: FakeVm) -> None:
        self.vm = vm
        self.bytes_ = bytearray(4096)
        self.clock_notices = 0
        self.local_apic = None

    def lapic(self) -> object:
        return None

    def is_halted(self) -> bool:
        return False

    def open_stats(self, like: object) -> None: ...

    def tsc_khz(self) -> int:
        return 0

    def set_cpuid(self, entries: object) -> None: ...

    def set_msrs(self, values: object) -> list[int]:
        return []

    def kvmclock_paused(self) -> None:
        self.clock_notices += 1


class FakeRunLoop:
    """Counts entries; «in the guest» means inside ``run``. A kick's signal is what ends the wait."""

    def __init__(self, vcpu: FakeVcpu, dispatch: object) -> None:
        self.vcpu = vcpu
        self.entries = 0
        self.inside = False
        self.exit_counts = [0] * 64

    def kicked(self) -> None: ...

    def reset(self) -> None: ...

    def run(self) -> None:
        self.inside = True
        self.entries += 1
        while not self.vcpu.bytes_[IMMEDIATE_EXIT]:
            # interruptible, and short enough that a kick lost between the look and the wait shows as slowness only
            select.select([], [], [], 0.005)
        self.inside = False


class FakeConfig:
    model = "qemu64"
    topology = Topology()
    kvmclock = True
    signature = 0
    machine_check = False

    def apic_id(self, index: int) -> int:
        return index

    def topology_ids(self, index: int) -> tuple[int, int, int, int]:
        return (index, 0, 0, 0)

    def cpuid(self, index: int, tsc_khz: int) -> tuple[Any, ...]:
        return ()

    def msrs(self) -> dict[int, int]:
        return {}


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[VcpuManager]:
    monkeypatch.setattr(cpus, "RunLoop", FakeRunLoop)
    monkeypatch.setattr(cpus.cpustate, "reset", lambda *args, **kwargs: None)
    machine = make_context()
    made = VcpuManager(
        FakeVm(), count=COUNT, pio=machine.pio, mmio=machine.mmio, lock=machine.lock,
        requests=RecordingRequests(), loop=ImmediateLoop(), cpu_config=FakeConfig(), debug_threads=False,
        hidden=None,
    )  # type: ignore[arg-type]  # fakes  # fmt: skip
    made.start()
    yield made
    made.stop()


def loops(manager: VcpuManager) -> list[Any]:
    return [cpu.run_loop for cpu in manager._cpus]


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def pause(manager: VcpuManager) -> None:
    done = threading.Event()
    manager.pause(done.set)
    assert done.wait(5)


def test_vcpus_start_paused(manager: VcpuManager) -> None:
    time.sleep(0.01)
    assert manager.all_parked
    assert [loop.entries for loop in loops(manager)] == [0] * COUNT


def test_pause_reports_when_no_vcpu_is_in_the_guest(manager: VcpuManager) -> None:
    manager.resume()
    wait_for(lambda: all(loop.inside for loop in loops(manager)))
    seen: list[list[bool]] = []
    done = threading.Event()
    manager.pause(lambda: (seen.append([loop.inside for loop in loops(manager)]), done.set()))  # type: ignore[func-returns-value]
    assert done.wait(5)
    assert seen == [[False] * COUNT]


def test_every_pause_is_answered_once(manager: VcpuManager) -> None:
    manager.resume()
    answers: list[int] = []
    manager.pause(lambda: answers.append(1))
    manager.pause(lambda: answers.append(2))
    wait_for(lambda: len(answers) == 2)
    manager.pause(lambda: answers.append(3))
    assert sorted(answers) == [1, 2, 3]


def test_pause_now_tells_the_truth(manager: VcpuManager) -> None:
    assert manager.pause_now()  # nobody runs
    told = []
    for _ in range(50):
        manager.resume()
        at_rest = manager.pause_now()
        told.append(at_rest)
        if at_rest:
            assert manager.all_parked
            assert not any(cpu.run_loop.inside for cpu in manager._cpus)
        pause(manager)
    assert any(told)


def test_hold_by_a_device_keeps_everybody_out_until_release(manager: VcpuManager) -> None:
    manager.resume()
    wait_for(lambda: all(loop.inside for loop in loops(manager)))
    manager.hold()
    wait_for(lambda: manager.all_parked)
    manager.resume()
    assert manager.all_parked
    manager.release()
    wait_for(lambda: all(loop.inside for loop in loops(manager)))


def test_release_does_not_start_a_paused_machine(manager: VcpuManager) -> None:
    manager.hold()
    manager.release()
    assert manager.all_parked
    assert not manager.run_allowed


def test_kvmclock_stands_still_while_paused(manager: VcpuManager) -> None:
    vm: Any = manager.vm
    manager.resume()
    assert vm.set_clock is None
    pause(manager)
    vm.clock = 999_999
    manager.resume()
    assert vm.set_clock == 1000
    wait_for(lambda: all(cpu.vcpu.clock_notices for cpu in manager._cpus))  # type: ignore[attr-defined]


def test_registers_of_a_running_vcpu_are_refused(manager: VcpuManager) -> None:
    manager.resume()
    with pytest.raises(StateError, match="vCPU 1 is running"):
        manager.registers(1)


def test_commands_run_on_the_vcpus_thread_whether_parked_or_running(manager: VcpuManager) -> None:
    answers: list[object] = []
    expected = [info.thread_id for info in manager.infos]
    for index in range(COUNT):
        manager.run_on_vcpu(index, lambda _: threading.get_native_id(), lambda result, error: answers.append(result))
        wait_for(lambda count=index + 1: len(answers) == count)
    manager.resume()
    for index in range(COUNT):
        manager.run_on_vcpu(index, lambda _: threading.get_native_id(), lambda result, error: answers.append(result))
        wait_for(lambda count=COUNT + index + 1: len(answers) == count)
    assert answers == expected * 2
    assert not manager.all_parked


def test_random_requests_from_several_threads_leave_a_consistent_machine(manager: VcpuManager) -> None:
    seed = int.from_bytes(os.urandom(4), "little")
    answered = [0]
    asked = [0]
    lock = threading.Lock()

    def answer() -> None:
        with lock:
            answered[0] += 1

    def act(number: int) -> None:
        generator = random.Random(seed + number)
        for _ in range(300):
            choice = generator.randrange(4)
            if choice == 0:
                with lock:
                    asked[0] += 1
                manager.pause(answer)
            else:
                (manager.resume, manager.hold, manager.release)[choice - 1]()

    threads = [threading.Thread(target=act, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    manager.release()
    wait_for(lambda: answered[0] == asked[0])
    pause(manager)
    assert manager.all_parked, seed
    assert not any(loop.inside for loop in loops(manager)), seed
    manager.resume()
    wait_for(lambda: all(loop.inside for loop in loops(manager)))


def test_vcpu_threads_outlive_a_vm_that_kvm_has_given_up(manager: VcpuManager, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> int:
        raise KvmError("KVM_GET_CLOCK", errno.EIO)

    monkeypatch.setattr(FakeVm, "clock_ns", refused)
    monkeypatch.setattr(FakeVm, "set_clock_ns", refused)
    for _ in range(2):
        manager._clock_ns = 5  # as after an earlier stop that KVM still answered
        manager.resume()
        wait_for(lambda: all(loop.inside for loop in loops(manager)))
        manager.pause(bool)
        wait_for(lambda: manager.all_parked)
    assert all(cpu.thread.is_alive() for cpu in manager._cpus)
