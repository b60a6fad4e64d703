# SPDX-License-Identifier: Apache-2.0
"""The run loop on real KVM with flat guests of a few bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.kvm_guest import ENTRY, PROTECTED_MODE, TinyVm
from vmmd.core.address_space import IoRange
from vmmd.core.device import ShutdownCause

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.kvm

FINISH = bytes.fromhex("e6f4 f4 ebfd")  # out 0xf4,al; hlt; jmp -1
Writes = list[tuple[int, int, int]]


@pytest.fixture
def tiny() -> Iterator[Callable[..., TinyVm]]:
    made: list[TinyVm] = []

    def make(code: str, **kwargs: object) -> TinyVm:
        made.append(TinyVm(bytes.fromhex(code) + FINISH, **kwargs))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for vm in made:
        vm.close()


def recorder(writes: Writes, reads: dict[int, int] | None = None) -> tuple[object, object]:
    return (
        lambda offset, size: (reads or {}).get(offset, 0),
        lambda offset, size, value: writes.append((offset, size, value)),
    )


def port_device(vm: TinyVm, base: int, size: int, reads: dict[int, int] | None = None, max_width: int = 4) -> Writes:
    writes: Writes = []
    read, write = recorder(writes, reads)
    vm.pio.add(IoRange(base, size, read, write, name="test", max_width=max_width))  # type: ignore[arg-type]
    return writes


def test_port_write_of_each_size_reaches_the_device(tiny: Callable[..., TinyVm]) -> None:
    # mov eax,0x11223344; mov dx,0x600; out dx,al; out dx,ax; out dx,eax
    vm = tiny("66b844332211 ba0006 ee ef 66ef")
    writes = port_device(vm, 0x600, 4)
    vm.run()
    assert writes == [(0, 1, 0x44), (0, 2, 0x3344), (0, 4, 0x11223344)]
    assert vm.cpus.exit_counts(0)["io"] == 4


def test_port_read_of_each_size_gives_the_devices_value(tiny: Callable[..., TinyVm]) -> None:
    # mov dx,0x600; in al,dx; mov [0x500],al; in ax,dx; mov [0x502],ax; in eax,dx; mov [0x504],eax
    vm = tiny("ba0006 ec a20005 ed a30205 66ed 66a30405")
    port_device(vm, 0x600, 4, {0: 0xA1B2C3D4})
    vm.run()
    assert vm.memory.read(0x500, 8) == bytes.fromhex("d400d4c3d4c3b2a1")


def test_unclaimed_port_reads_all_ones(tiny: Callable[..., TinyVm]) -> None:
    vm = tiny("ba0006 66ed 66a30405")
    vm.run()
    assert vm.memory.u32(0x504) == 0xFFFFFFFF
    assert vm.pio.unassigned_reads == 1


def test_rep_outsb_writes_every_byte_in_order(tiny: Callable[..., TinyVm]) -> None:
    vm = tiny("fc be0020 b94000 ba0006 f36e")  # cld; mov si,0x2000; mov cx,64; mov dx,0x600; rep outsb
    vm.memory.write(0x2000, bytes(range(64)))
    writes = port_device(vm, 0x600, 1, max_width=1)
    vm.run()
    assert [value for _, _, value in writes] == list(range(64))


def test_rep_insw_reads_every_word(tiny: Callable[..., TinyVm]) -> None:
    vm = tiny("fc bf0030 b91000 ba0006 f36d")  # mov di,0x3000; mov cx,16; rep insw
    values = iter(range(100, 200))
    vm.pio.add(IoRange(0x600, 2, lambda offset, size: next(values), lambda *_: None, name="test"))
    vm.run()
    assert list(memoryview(vm.memory.read(0x3000, 32)).cast("H")) == list(range(100, 116))


def test_mmio_read_and_write_reach_the_device(tiny: Callable[..., TinyVm]) -> None:
    # mov ax,0xffff; mov ds,ax (base 0xffff0); mov dword [0x8010],.. -> 0xffff0+0x8010 = 0x108000, above the RAM
    vm = tiny("b8ffff 8ed8 66c7061080785634 12 66a11480 31db 8edb 66a30005")
    writes: Writes = []
    read, write = recorder(writes, {4: 0xCAFEBABE})
    vm.mmio.add(IoRange(0x108000, 4096, read, write, name="test"))  # type: ignore[arg-type]
    vm.run()
    assert writes == [(0, 4, 0x12345678)]
    assert vm.memory.u32(0x500) == 0xCAFEBABE
    assert vm.cpus.exit_counts(0)["mmio"] == 2


def test_mmio_write_to_ram_behind_a_readonly_slot_goes_to_the_fallback(tiny: Callable[..., TinyVm]) -> None:
    vm = tiny("b8feca a30060")  # mov ax,0xcafe; mov [0x6000],ax
    vm.vm.set_memory_slot(0, 0, 0, vm.hva)
    vm.vm.set_memory_slot(0, 0, 0x6000, vm.hva)
    vm.vm.set_memory_slot(1, 0x6000, 0x1000, vm.hva + 0x6000, readonly=True)
    vm.run()
    assert vm.memory.u16(0x6000) == 0xCAFE
    assert vm.cpus.exit_counts(0)["mmio"] == 1


def test_mmio_access_across_the_end_of_a_range_is_split(tiny: Callable[..., TinyVm]) -> None:
    # ds=0xffff; mov dword [0x8016],0x12345678: 0x108006-0x108009, its aligned second half in the range at 0x108008
    vm = tiny("b8ffff 8ed8 66c7061680785634 12")
    writes: Writes = []
    read, write = recorder(writes)
    vm.mmio.add(IoRange(0x108008, 4096, read, write, name="test"))  # type: ignore[arg-type]
    vm.run()
    assert writes == [(0, 2, 0x1234)]  # (QEMU) in the largest pieces that are aligned


def test_range_added_while_the_guest_runs_is_seen_by_its_next_access(tiny: Callable[..., TinyVm]) -> None:
    # ds=0xffff; two reads of [0x8010], the first of which makes the device move its range away
    vm = tiny("b8ffff 8ed8 a01080 88c4 a01080 31db 8edb a30005")
    first = IoRange(0x108000, 4096, lambda offset, size: (vm.mmio.update([first], [second]), 0x11)[1],
                    lambda *_: None, name="first")  # fmt: skip
    second = IoRange(0x108000, 4096, lambda offset, size: 0x22, lambda *_: None, name="second")
    vm.mmio.add(first)
    vm.run()
    assert vm.memory.u16(0x500) == 0x1122


def test_triple_fault_requests_a_reset_by_the_guest(tiny: Callable[..., TinyVm]) -> None:
    vm = tiny("0f0b", boot=PROTECTED_MODE)  # ud2 without an interrupt table
    assert vm.wait_request() == ("reset", ShutdownCause.GUEST_RESET)
    assert vm.cpus.exit_counts(0) == {"shutdown": 1}


def test_handler_that_raises_stops_the_machine_and_the_thread_survives(
    tiny: Callable[..., TinyVm], capfd: pytest.CaptureFixture[str]
) -> None:
    vm = tiny("ba0006 ee")

    def broken(offset: int, size: int, value: int) -> None:
        raise ZeroDivisionError("a bug")

    vm.pio.add(IoRange(0x600, 1, lambda offset, size: 0, broken, name="broken"))
    assert vm.wait_request()[0] == "internal-error"
    assert "ZeroDivisionError: a bug" in capfd.readouterr().err
    assert not vm.lock.locked()
    vm.cpus.release()  # the state machine would not let it; the thread is able to go on
    vm.run()


def test_instruction_kvm_cannot_emulate_is_an_internal_error_with_registers(
    tiny: Callable[..., TinyVm], capfd: pytest.CaptureFixture[str]
) -> None:
    # jump to an MMIO address: no KVM fetches instructions from there
    vm = tiny("ea0080ff ff".replace(" ", ""))  # jmp 0xffff:0x8000 = 0x107ff0, above the RAM
    assert vm.wait_request()[0] == "internal-error"
    text = capfd.readouterr().err
    assert "KVM internal error. Suberror: 1" in text
    assert "EIP=00008000" in text


def test_registers_of_a_paused_vcpu_show_the_finished_port_read(tiny: Callable[..., TinyVm]) -> None:
    vm = tiny("ba0006 ec")  # the read asks for a pause: its result must be in AL when registers are read

    def read(offset: int, size: int) -> int:
        vm.cpus.hold()
        vm.finished.set()
        return 0x5A

    vm.pio.add(IoRange(0x600, 1, read, lambda *_: None, name="test"))
    vm.run()
    registers = vm.cpus.registers(0)
    assert registers["rax"] & 0xFF == 0x5A
    assert registers["rip"] == ENTRY + 4
