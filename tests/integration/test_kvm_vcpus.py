# SPDX-License-Identifier: Apache-2.0
"""Starting, kicking, pausing, resetting and inspecting vCPUs on real KVM."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.kvm_guest import ENTRY, PROTECTED_MODE, TinyVm
from vmmd.core.address_space import IoRange
from vmmd.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.kvm

SPIN = bytes.fromhex("40 ebfd")  # inc ax; jmp -3
KICKS = 1000


@pytest.fixture
def spinning() -> Iterator[TinyVm]:
    vm = TinyVm(SPIN)
    yield vm
    vm.close()


def test_kick_of_a_spinning_guest_is_fast_while_another_thread_is_busy(spinning: TinyVm) -> None:
    ended = threading.Event()

    def busy() -> None:  # bursts of Python, as an event loop under load
        while not ended.is_set():
            sum(range(5000))
            time.sleep(0.0002)

    thread = threading.Thread(target=busy)
    thread.start()
    latencies = []
    try:
        for _ in range(KICKS):
            spinning.cpus.resume()
            start = time.perf_counter()
            spinning.pause()
            latencies.append(time.perf_counter() - start)
    finally:
        ended.set()
        thread.join()
    latencies.sort()
    assert latencies[KICKS * 99 // 100] < 0.020


def test_guest_makes_progress_between_pauses_and_none_while_paused(spinning: TinyVm) -> None:
    spinning.cpus.resume()
    time.sleep(0.02)
    spinning.pause()
    first = spinning.cpus.registers(0)
    time.sleep(0.02)
    assert spinning.cpus.registers(0) == first
    spinning.cpus.resume()
    time.sleep(0.02)
    spinning.pause()
    assert spinning.cpus.registers(0)["rax"] != first["rax"]


def test_pause_and_resume_are_idempotent(spinning: TinyVm) -> None:
    spinning.pause()
    spinning.cpus.resume()
    spinning.cpus.resume()
    spinning.pause()
    spinning.pause()
    assert spinning.cpus.all_parked


def test_resume_during_a_pause_runs_after_the_pause_was_reported(spinning: TinyVm) -> None:
    spinning.cpus.resume()
    reported: list[bool] = []
    spinning.cpus.pause(lambda: reported.append(True))
    spinning.cpus.resume()
    spinning.loop.serve(lambda: bool(reported))
    time.sleep(0.01)
    assert not spinning.cpus.all_parked
    spinning.pause()


def test_hold_survives_resume_and_release_lets_go(spinning: TinyVm) -> None:
    spinning.cpus.hold()
    spinning.cpus.resume()
    assert spinning.cpus.all_parked
    spinning.cpus.release()
    assert not spinning.cpus.all_parked


def test_registers_of_a_running_vcpu_come_through_its_thread(spinning: TinyVm) -> None:
    spinning.cpus.resume()
    with pytest.raises(StateError):
        spinning.cpus.registers(0)
    results: list[tuple[object, Exception | None]] = []
    spinning.cpus.run_on_vcpu(0, lambda vcpu: vcpu.regs().rip, lambda result, error: results.append((result, error)))
    spinning.loop.serve(lambda: bool(results))
    assert results[0] in ((ENTRY, None), (ENTRY + 1, None))
    assert not spinning.cpus.all_parked  # it runs on


def test_failure_of_a_command_is_reported_and_the_vcpu_runs_on(spinning: TinyVm) -> None:
    spinning.cpus.resume()
    results: list[Exception | None] = []
    spinning.cpus.run_on_vcpu(0, lambda vcpu: 1 // 0, lambda result, error: results.append(error))
    spinning.loop.serve(lambda: bool(results))
    assert isinstance(results[0], ZeroDivisionError)
    assert not spinning.cpus.all_parked


def test_threads_are_named_and_known_by_their_kernel_id() -> None:
    vm = TinyVm(SPIN, count=2)
    try:
        files = [Path(f"/proc/self/task/{info.thread_id}/comm") for info in vm.cpus.infos]
        deadline = time.monotonic() + 5  # each thread names itself first thing
        while [file.read_text() for file in files] != ["CPU 0/KVM\n", "CPU 1/KVM\n"]:
            assert time.monotonic() < deadline
            time.sleep(0.001)
    finally:
        vm.close()


def test_reset_brings_a_vcpu_back_to_its_boot_state(spinning: TinyVm) -> None:
    spinning.cpus.reset()
    before = spinning.cpus.registers_text(0)
    spinning.cpus.resume()
    time.sleep(0.01)
    spinning.pause()
    assert spinning.cpus.registers_text(0) != before
    spinning.cpus.reset()
    assert spinning.cpus.registers_text(0) == before


def test_power_on_state_is_the_reset_vector(spinning: TinyVm) -> None:
    spinning.cpus.set_boot_state(None)
    spinning.cpus.reset()
    text = spinning.cpus.registers_text(0).splitlines()
    assert text[:4] == [
        "EAX=00000000 EBX=00000000 ECX=00000000 EDX=00000600",
        "ESI=00000000 EDI=00000000 EBP=00000000 ESP=00000000",
        "EIP=0000fff0 EFL=00000002 [-------] CPL=0 II=0 A20=1 SMM=0 HLT=0",
        "ES =0000 00000000 0000ffff 00009300",
    ]
    assert "CS =f000 ffff0000 0000ffff 00009b00" in text
    assert "CR0=60000010 CR2=00000000 CR3=00000000 CR4=00000000" in text
    assert "FCW=037f FSW=0000 [ST=0] FTW=00 MXCSR=00001f80" in text


def test_machine_check_banks_are_those_that_qemu_gives(spinning: TinyVm) -> None:
    values = spinning.vm.vcpus[0].get_msrs([0x179, 0x17B, 0x400, 0x401, 0x400 + 4 * 9])
    every_error = (1 << 64) - 1
    assert values[0x179] & 0xFF == 10
    assert (values[0x17B], values[0x400], values[0x401], values[0x424]) == (every_error, every_error, 0, every_error)


def test_application_processor_waits_and_does_not_keep_a_pause_waiting() -> None:
    vm = TinyVm(SPIN, count=2)
    try:
        vm.cpus.resume()
        time.sleep(0.01)
        vm.pause()
        assert vm.cpus.registers(1)["rip"] == 0xFFF0
    finally:
        vm.close()


def test_init_and_sipi_start_an_application_processor() -> None:
    # APIC on, INIT and SIPI (vector 2) to all but self through the APIC's command register, then spin
    code = "c705f000e0feff010000 c7050003e0fe00450c00 c7050003e0fe02460c00 ebfe"
    vm = TinyVm(bytes.fromhex(code), count=2, boot=PROTECTED_MODE)
    try:
        vm.memory.write(0x2000, bytes.fromhex("b055 e6f4 f4 ebfd"))
        vm.run()
        registers = vm.cpus.registers(1)
        assert (registers["cs"], registers["rax"] & 0xFF) == (0x200, 0x55)
        vm.cpus.reset()
        assert vm.cpus.registers(1)["rip"] == 0xFFF0
        vm.finished.clear()
        vm.run()  # it waits for INIT and SIPI again, and gets them
    finally:
        vm.close()


def test_halted_vcpu_is_shown_and_can_be_paused() -> None:
    vm = TinyVm(bytes.fromhex("e6f4 f4"))
    try:
        vm.run()
        vm.cpus.resume()
        time.sleep(0.01)
        vm.pause()
        assert vm.cpus.infos[0].halted
        assert "HLT=1" in vm.cpus.registers_text(0)
    finally:
        vm.close()


@pytest.mark.parametrize("lint1", [0x400, 0x1_0400, 0x700], ids=["NMI", "masked", "ExtINT"])
def test_nmi_reaches_the_guest_as_lint1_says(lint1: int) -> None:
    # NMI handler at 0x100: out 0xf4,al; the guest spins
    vm = TinyVm(SPIN)
    given: list[Exception | None] = []
    try:
        vm.memory.write(0x100, bytes.fromhex("e6f4ebfe"))
        vm.memory.write(8, bytes.fromhex("00010000"))
        vcpu = vm.cpus._cpus[0].vcpu  # what firmware does through the APIC's registers
        lapic = vcpu.lapic()
        lapic.regs[0xF1] = 1  # spurious vector register, bit 8: APIC on
        lapic.regs[0x360:0x364] = list(lint1.to_bytes(4, "little"))
        vcpu.set_lapic(lapic)
        vm.cpus.resume()
        vm.cpus.inject_nmi(given.append)
        vm.loop.serve(lambda: bool(given))
        assert given == [None]
        assert vm.finished.wait(5 if lint1 == 0x400 else 0.1) is (lint1 == 0x400)
    finally:
        vm.close()


def test_stop_ends_all_threads() -> None:
    vm = TinyVm(SPIN, count=2)
    vm.cpus.resume()
    threads = [info.thread_id for info in vm.cpus.infos]
    vm.close()
    deadline = time.monotonic() + 5  # the kernel's thread ends a little after Python's
    while any(Path(f"/proc/self/task/{thread}").exists() for thread in threads):
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_port_requests_of_a_paused_machine_are_not_repeated() -> None:
    """A write that asked for a pause is done once, not again after the resume."""
    vm = TinyVm(bytes.fromhex("ba0006 ee e6f4 f4"))
    writes = []

    def write(offset: int, size: int, value: int) -> None:
        writes.append(value)
        vm.cpus.hold()

    try:
        vm.pio.add(IoRange(0x600, 1, lambda offset, size: 0, write, name="test"))
        vm.cpus.resume()
        deadline = time.monotonic() + 5
        while not (writes and vm.cpus.all_parked):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        vm.cpus.release()
        assert vm.finished.wait(5)
        assert writes == [0]
    finally:
        vm.close()
