# SPDX-License-Identifier: Apache-2.0
"""vCPUs whose interrupt controllers are in user space, with and without the local APICs: interrupts into the guest,
HLT, IPIs, start-up of a second CPU."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.integration.kvm_guest import ENTRY, PROTECTED_MODE, TinyVm
from vmmd.core.bootstate import BootState
from vmmd.core.clock import ManualClock
from vmmd.machine.user_chips import SplitChips, UserChips

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.kvm

GDT, IDT, COUNTER, SEEN, HANDLER = 0x600, 0x4000, 0x500, 0x504, 0x3000
APIC = 0xFEE0_0000
VERSION, TPR, END, SPURIOUS, ICR, LVT_TIMER, INITIAL_COUNT, DIVIDE = 0x30, 0x80, 0xB0, 0xF0, 0x300, 0x320, 0x380, 0x3E0
TO_ITSELF, TO_OTHERS = 1 << 18, 3 << 18
STI, HALT = b"\xfb", b"\xf4"
FINISH = bytes.fromhex("e6f4 fa f4 ebfc")  # out 0xf4, al; cli; hlt; jmp back
#: pop edi; pop esi; pop esi; sti; jmp edi: a KVM that emulates these guests does not know iret in protected mode
RETURN = bytes.fromhex("5f5e5e fb ffe7")
COUNT = b"\xff\x05" + COUNTER.to_bytes(4, "little")  # inc dword [COUNTER]
RETURN_MASKED = RETURN.replace(STI, b"\x90")
BOOT = BootState(PROTECTED_MODE.regs, PROTECTED_MODE.segments, gdt=(GDT, 23), idt=(IDT, 0x7FF), cr0=0x11)
#: a null segment, flat code, flat data
SEGMENTS = bytes(8) + 0x00CF9B000000FFFF.to_bytes(8, "little") + 0x00CF93000000FFFF.to_bytes(8, "little")
DEADLINE_S = 10.0


def put(register: int, value: int) -> bytes:
    """mov dword [APIC + register], value."""
    return b"\xc7\x05" + (APIC + register).to_bytes(4, "little") + value.to_bytes(4, "little")


def copy(source: int, target: int) -> bytes:
    """mov eax, [source]; mov [target], eax."""
    return b"\xa1" + source.to_bytes(4, "little") + b"\xa3" + target.to_bytes(4, "little")


def until_equal(address: int, value: int) -> bytes:
    """cmp dword [address], value; jne back."""
    return b"\x83\x3d" + address.to_bytes(4, "little") + bytes((value, 0x75, 0xF7))


def prepare(vm: TinyVm, end: bytes) -> None:
    """Every vector counts and does ``end``."""
    vm.memory.write(GDT, SEGMENTS)
    vm.memory.write(HANDLER, COUNT + end)
    gate = HANDLER | 8 << 16 | 0x8E00 << 32
    vm.memory.write(IDT, gate.to_bytes(8, "little") * 256)


class Machine:
    """A tiny VM with APICs in user space, whose every vector counts and ends its interrupt."""

    def __init__(self, *code: bytes, count: int = 1, end: bytes = put(END, 0) + RETURN) -> None:
        self.clock = ManualClock()
        self.chips = UserChips(self.clock, apic_version=0x11)
        self.vm = vm = TinyVm(b"".join(code), count=count, boot=BOOT, chips=self.chips)
        prepare(vm, end)
        self.apics = self.chips.apics
        self.apic = self.apics[0]

    def wait(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, self.vm.cpus.exit_counts(0)
            time.sleep(0.001)

    def wait_halted(self) -> None:
        self.wait(lambda: self.apic.halted)

    def wait_finished(self) -> None:
        assert self.vm.finished.wait(DEADLINE_S), self.vm.cpus.exit_counts(0)
        self.vm.pause()

    @property
    def counted(self) -> int:
        return self.vm.memory.u32(COUNTER)


@pytest.fixture
def machine() -> Iterator[Callable[..., Machine]]:
    made: list[Machine] = []

    def make(*code: bytes, count: int = 1, end: bytes = put(END, 0) + RETURN) -> Machine:
        made.append(Machine(*code, count=count, end=end))
        return made[-1]

    yield make
    for each in made:
        each.vm.close()


def test_the_timer_wakes_a_halted_cpu(machine: Callable[..., Machine]) -> None:
    m = machine(
        put(LVT_TIMER, 0x40), put(DIVIDE, 0xB), put(INITIAL_COUNT, 1_000_000), STI, HALT, copy(COUNTER, SEEN), FINISH
    )
    m.vm.cpus.resume()
    m.wait_halted()
    with m.vm.lock:
        m.clock.advance(999_999)
    assert m.apic.halted
    with m.vm.lock:
        m.clock.advance(1)
    m.wait_finished()
    assert (m.counted, m.apic.isr, m.apic.irr) == (1, 0, 0)


def test_the_guest_sees_the_version_that_was_asked_for(machine: Callable[..., Machine]) -> None:
    m = machine(copy(APIC + VERSION, SEEN), FINISH)
    m.vm.cpus.resume()
    m.wait_finished()
    assert m.vm.memory.u32(SEEN) == 0x5_0011


def test_the_8259_pair_comes_through_lint0(machine: Callable[..., Machine]) -> None:
    m = machine(STI, HALT, copy(COUNTER, SEEN), FINISH, end=RETURN)

    def acknowledge() -> int:
        m.chips.bus.set_intr(0)
        return 0x21

    m.chips.bus.acknowledge = acknowledge
    m.vm.cpus.resume()
    m.wait_halted()
    with m.vm.lock:
        m.chips.bus.set_intr(1)
    m.wait_finished()
    assert (m.counted, m.apic.isr) == (1, 0)


def test_an_interrupt_waits_until_the_guest_lets_it_in(machine: Callable[..., Machine]) -> None:
    m = machine(put(ICR, TO_ITSELF | 0x41), copy(COUNTER, SEEN), STI, until_equal(COUNTER, 1), FINISH)
    m.vm.run()
    assert (m.vm.memory.u32(SEEN), m.counted) == (0, 1)
    assert m.vm.cpus.exit_counts(0)["irq_window_open"] == 1


def test_the_task_priority_holds_interrupts_back(machine: Callable[..., Machine]) -> None:
    m = machine(
        STI,
        put(TPR, 0x4F),
        put(ICR, TO_ITSELF | 0x41),
        copy(COUNTER, SEEN),
        put(TPR, 0x3F),
        until_equal(COUNTER, 1),
        FINISH,
    )
    m.vm.run()
    assert (m.vm.memory.u32(SEEN), m.counted) == (0, 1)


def test_interrupts_of_one_priority_follow_each_other(machine: Callable[..., Machine]) -> None:
    vectors = (0x41, 0x42, 0x31, 0x41)
    m = machine(*(put(ICR, TO_ITSELF | vector) for vector in vectors), STI, until_equal(COUNTER, 3), FINISH)
    m.vm.run()
    assert (m.counted, m.apic.irr, m.apic.isr) == (3, 0, 0)


def test_start_up_of_a_second_cpu(machine: Callable[..., Machine]) -> None:
    m = machine(
        put(ICR, TO_OTHERS | 0x4500), put(ICR, TO_OTHERS | 0x4602), until_equal(SEEN, 1), FINISH, count=2
    )  # fmt: skip
    m.vm.memory.write(0x2000, b"\xc6\x06" + SEEN.to_bytes(2, "little") + b"\x01\xfa\xf4\xeb\xfd")  # cli; hlt; jmp
    second = m.apics[1]
    assert second.waiting
    m.vm.run()
    m.vm.cpus.resume()
    m.wait(lambda: second.halted)
    m.vm.pause()
    registers = m.vm.cpus.registers(1)
    assert (registers["cs"], registers["cs_base"], registers["rip"]) == (0x200, 0x2000, 7)
    assert m.vm.cpus.infos[1].halted


def test_init_begins_again_from_wherever_the_cpu_is(machine: Callable[..., Machine]) -> None:
    m = machine(put(ICR, TO_OTHERS | 0x4500), put(ICR, TO_OTHERS | 0x4602), b"\xeb\xfe", count=2)
    m.vm.memory.write(0x2000, b"\xfe\x06" + SEEN.to_bytes(2, "little") + b"\xeb\xfe")  # inc byte [SEEN]; jmp .
    m.vm.cpus.resume()
    m.wait(lambda: m.vm.memory.u32(SEEN))
    for _ in range(3):
        before = m.vm.memory.u32(SEEN)
        m.chips.bus.deliver(0xFEE0_1000, 0x4500)
        m.chips.bus.deliver(0xFEE0_1000, 0x4602)
        m.wait(lambda before=before: m.vm.memory.u32(SEEN) > before)
    m.vm.pause()
    assert m.vm.memory.u32(SEEN) == 4


def test_nmi_wakes_a_cpu_that_takes_no_interrupts(machine: Callable[..., Machine]) -> None:
    m = machine(HALT, FINISH, end=RETURN_MASKED)
    m.vm.cpus.resume()
    m.wait_halted()
    m.chips.bus.deliver(0xFEE0_0000, 0x4041)  # a fixed interrupt does not
    done: list[Exception | None] = []
    m.vm.cpus.inject_nmi(done.append)
    m.vm.loop.serve(lambda: bool(done))
    m.wait_finished()
    assert (done, m.counted) == ([None], 1)
    assert m.apic.irr == 1 << 0x41


def test_pause_and_reset_of_sleeping_cpus(machine: Callable[..., Machine]) -> None:
    m = machine(STI, HALT, FINISH, count=2)
    for _ in range(3):
        m.vm.cpus.resume()
        m.wait_halted()
        m.vm.pause()
        assert [each.halted for each in m.vm.cpus.infos] == [True, False]
        m.vm.cpus.reset()
        assert not m.apic.halted
        assert m.vm.cpus.registers(0)["rip"] == ENTRY
    m.vm.cpus.resume()
    m.wait_halted()
    m.chips.bus.deliver(0xFEE0_0000, 0x4041)
    m.wait_finished()
    assert m.counted == 1


# -- local APICs in the kernel -----------------------------------------------------------------------------------------


@pytest.fixture
def split() -> Iterator[Callable[..., TinyVm]]:
    made: list[TinyVm] = []

    def make(*code: bytes, end: bytes) -> TinyVm:
        made.append(TinyVm(b"".join(code), boot=BOOT, chips=SplitChips))
        prepare(made[-1], end)
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_split_the_io_apic_is_told_the_end_of_level_triggered_interrupts(split: Callable[..., TinyVm]) -> None:
    vm = split(put(SPURIOUS, 0x1FF), STI, until_equal(COUNTER, 2), FINISH, end=put(END, 0) + RETURN)
    assert isinstance(vm.loops, SplitChips)
    interrupts, ended = vm.loops.interrupts, []

    def end_of_interrupt(vector: int) -> None:
        ended.append(vector)
        if len(ended) == 1:  # the level is still there
            interrupts.signal_msi(0xFEE0_0000, 0x8041)

    interrupts.end_of_interrupt = end_of_interrupt  # type: ignore[method-assign]
    with vm.lock:
        interrupts._messages.route_pin(20, (0xFEE0_0000, 0x8041))
    vm.cpus.resume()
    deadline = time.monotonic() + DEADLINE_S
    while not ended:  # the guest switches its APIC on first; what comes before is lost
        assert time.monotonic() < deadline, vm.cpus.exit_counts(0)
        interrupts.signal_msi(0xFEE0_0000, 0x8041)
        time.sleep(0.002)
    assert vm.finished.wait(DEADLINE_S), vm.cpus.exit_counts(0)
    vm.pause()
    assert set(ended) == {0x41}
    assert vm.cpus.exit_counts(0)["ioapic_eoi"] == len(ended) >= 2


def test_split_the_8259_pair_interrupts_a_halted_boot_cpu(split: Callable[..., TinyVm]) -> None:
    vm = split(STI, HALT, until_equal(COUNTER, 1), FINISH, end=RETURN)
    assert isinstance(vm.loops, SplitChips)
    interrupts = vm.loops.interrupts

    def acknowledge() -> int:
        interrupts.intr(0)
        return 0x21

    interrupts.acknowledge = acknowledge  # type: ignore[method-assign]
    vm.cpus.resume()
    with vm.lock:
        interrupts.intr(1)
    assert vm.finished.wait(DEADLINE_S), vm.cpus.exit_counts(0)
    vm.pause()
    assert vm.memory.u32(COUNTER) == 1
