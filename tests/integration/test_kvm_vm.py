# SPDX-License-Identifier: Apache-2.0
"""Memory slots, event descriptors, interrupts and statistics on real KVM."""

from __future__ import annotations

import os
import select
import time
from typing import TYPE_CHECKING

import pytest

from tests.integration.kvm_guest import TinyVm
from vmmd.core.address_space import IoRange
from vmmd.errors import BackendError
from vmmd.kvm.chips import KernelChips

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.kvm

FINISH = "e6f4 f4 ebfd"
#: enable interrupts at the 8259 (vectors 0x20/0x28), handler for IRQ 5 at 0x600: out 0xf4,al; then hlt
IRQ5_GUEST = "b011e620 b020e621 b004e621 b001e621 b0dfe621 fb f4 ebfd"


@pytest.fixture
def tiny() -> Iterator[Callable[..., TinyVm]]:
    made: list[TinyVm] = []

    def make(code: str) -> TinyVm:
        made.append(TinyVm(bytes.fromhex(code)))
        return made[-1]

    yield make
    for vm in made:
        vm.close()


@pytest.fixture
def eventfd() -> Iterator[int]:
    fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    yield fd
    os.close(fd)


def signalled(fd: int, timeout_s: float = 5.0) -> bool:
    return bool(select.select([fd], [], [], timeout_s)[0])


def test_ioeventfd_on_a_port_takes_matching_writes_only(tiny: Callable[..., TinyVm], eventfd: int) -> None:
    vm = tiny("ba0006 b80700 ef b80800 ef" + FINISH)  # out dx,ax with 7 and 8
    writes = []
    vm.pio.add(IoRange(0x600, 2, lambda *_: 0, lambda offset, size, value: writes.append(value), name="test"))
    vm.vm.ioeventfd(eventfd, 0x600, 2, pio=True, datamatch=7)
    vm.run()
    assert os.eventfd_read(eventfd) == 1
    assert writes == [8]


def test_ioeventfd_deassigned_gives_writes_back_to_the_device(tiny: Callable[..., TinyVm], eventfd: int) -> None:
    vm = tiny("ba0006 b80700 ef" + FINISH)
    writes = []
    vm.pio.add(IoRange(0x600, 2, lambda *_: 0, lambda offset, size, value: writes.append(value), name="test"))
    vm.vm.ioeventfd(eventfd, 0x600, 2, pio=True)
    vm.vm.ioeventfd(eventfd, 0x600, 2, pio=True, deassign=True)
    vm.run()
    assert writes == [7]
    assert not signalled(eventfd, 0)


def test_ioeventfd_on_memory_without_length_takes_every_width(tiny: Callable[..., TinyVm], eventfd: int) -> None:
    # ds=0xffff; mov [0x8010],al; mov [0x8010],ax
    vm = tiny("b8ffff 8ed8 a21080 a31080" + FINISH)
    vm.vm.ioeventfd(eventfd, 0x108000, 0, pio=False)
    vm.run()
    assert os.eventfd_read(eventfd) == 2
    assert "mmio" not in vm.cpus.exit_counts(0)


def test_refused_ioeventfd_is_a_backend_error_naming_the_call(tiny: Callable[..., TinyVm], eventfd: int) -> None:
    vm = tiny(FINISH)
    with pytest.raises(BackendError, match="KVM_IOEVENTFD failed: Invalid argument"):
        vm.vm.ioeventfd(eventfd, 0x600, 3, pio=True)


def install_handler(vm: TinyVm, vector: int, code: str) -> None:
    vm.memory.write(0x600, bytes.fromhex(code))
    vm.memory.write(4 * vector, (0x600).to_bytes(4, "little"))


def test_interrupt_line_reaches_the_guest(tiny: Callable[..., TinyVm]) -> None:
    vm = tiny(IRQ5_GUEST)
    install_handler(vm, 0x25, "e6f4 b020 e620 cf")
    vm.cpus.resume()
    time.sleep(0.05)
    with vm.lock:
        vm.interrupts.set_gsi(5, 1)
        vm.interrupts.set_gsi(5, 0)
    assert vm.finished.wait(30)


def test_irqfd_reaches_the_guest(tiny: Callable[..., TinyVm], eventfd: int) -> None:
    vm = tiny(IRQ5_GUEST)
    install_handler(vm, 0x25, "e6f4 b020 e620 cf")
    vm.vm.irqfd(eventfd, 5)
    vm.cpus.resume()
    time.sleep(0.05)
    os.eventfd_write(eventfd, 1)
    assert vm.finished.wait(30)
    vm.vm.irqfd(eventfd, 5, deassign=True)


def test_message_eventfds_get_routes_of_their_own_and_give_them_back(tiny: Callable[..., TinyVm]) -> None:
    vm = tiny(FINISH)
    fds = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(3)]
    routes = [vm.interrupts.bind_msi(fd, 0xFEE0_0000, 0x40 + number) for number, fd in enumerate(fds)]
    assert [route.gsi for route in routes] == [24, 25, 26]
    routes[1].update(0xFEE0_0000, 0x80)
    routes[1].close()
    routes[1].close()
    os.eventfd_write(fds[1], 1)
    assert os.eventfd_read(fds[1]) == 1  # nobody else takes it
    again = vm.interrupts.bind_msi(fds[1], 0xFEE0_0000, 0x90)
    assert again.gsi == 25
    for fd, route in zip(fds, (routes[0], again, routes[2]), strict=True):
        os.eventfd_write(fd, 1)  # no APIC listens: must not fail
        route.close()
        os.close(fd)


@pytest.mark.parametrize("early", [False, True])
def test_eventfd_delivers_its_message_also_when_written_before(
    tiny: Callable[..., TinyVm], eventfd: int, early: bool
) -> None:
    """How a back end of vhost interrupts; a write that came while the vector was masked counts."""
    vm = tiny("fb 90 ebfd")  # sti; spin
    install_handler(vm, 0x40, "e6f4 ebfe")
    vcpu = vm.vm.vcpus[0]
    lapic = vcpu.lapic()
    lapic.regs[0xF1] = 1  # spurious vector register, bit 8: APIC on
    vcpu.set_lapic(lapic)
    if early:
        os.eventfd_write(eventfd, 1)
    route = vm.interrupts.bind_msi(eventfd, 0xFEE0_0000, 0x40)
    if not early:
        os.eventfd_write(eventfd, 1)
    vm.cpus.resume()
    assert vm.finished.wait(30)
    route.close()


def test_message_reaches_the_local_apic(tiny: Callable[..., TinyVm]) -> None:
    # sti; spin. The APIC is enabled by software through its state.
    vm = tiny("fb 90 ebfd")
    install_handler(vm, 0x40, "e6f4 ebfe")
    vcpu = vm.vm.vcpus[0]
    lapic = vcpu.lapic()
    lapic.regs[0xF1] = 1  # spurious vector register, bit 8: APIC on
    vcpu.set_lapic(lapic)
    vm.cpus.resume()
    vm.interrupts.signal_msi(0xFEE0_0000, 0x40)
    assert vm.finished.wait(30)


def test_message_that_no_cpu_takes_is_dropped(tiny: Callable[..., TinyVm]) -> None:
    vm = tiny(FINISH)
    with pytest.raises(BackendError, match="KVM_SIGNAL_MSI"):  # what a guest can make KVM say
        vm.vm.signal_msi(0xFEEF_F004, 0x100)
    vm.interrupts.signal_msi(0xFEEF_F004, 0x100)


def test_dirty_log_names_the_written_pages_once(tiny: Callable[..., TinyVm]) -> None:
    vm = tiny("b8feca a30030 a30090" + FINISH)  # writes to 0x3000 and 0x9000
    vm.vm.set_memory_slot(0, 0, len(vm.map), vm.hva, log_dirty=True)
    vm.run()
    bitmap = vm.vm.dirty_log(0)
    pages = {page for page in range(256) if bitmap[page >> 3] >> (page & 7) & 1}
    assert {3, 9} <= pages
    assert 5 not in pages
    assert not any(vm.vm.dirty_log(0))


def test_coalesced_port_writes_are_drained_in_order_before_the_next_exit(tiny: Callable[..., TinyVm]) -> None:
    # out 0x600 three times, then a port that is not coalesced
    vm = tiny("ba0006 b001ee b002ee b003ee e680" + FINISH)
    seen: list[tuple[str, int]] = []
    vm.pio.add(IoRange(0x600, 1, lambda *_: 0, lambda o, s, value: seen.append(("data", value)), name="data"))
    vm.pio.add(IoRange(0x80, 1, lambda *_: 0, lambda *_: seen.append(("post", 0)), name="post"))
    vm.vm.register_coalesced(0x600, 1, pio=True)
    vm.run()
    assert seen == [("data", 1), ("data", 2), ("data", 3), ("post", 0)]
    assert vm.cpus.exit_counts(0)["io"] == 2
    vm.vm.unregister_coalesced(0x600, 1, pio=True)


def test_statistics_of_machine_and_vcpu_are_typed(tiny: Callable[..., TinyVm]) -> None:
    vm = tiny("ba0006 ee" + FINISH)
    vm.run()
    machine = {each.name: each for each in vm.vm.stats()}
    vcpu = {each.name: each for each in vm.vm.vcpus[0].stats()}
    assert machine["remote_tlb_flush"].kind == "cumulative"
    assert vcpu["exits"].values[0] > 0
    assert len(vcpu["halt_poll_success_hist"].values) > 8
    assert vcpu["halt_poll_success_hist"].kind == "log2-histogram"
    assert (vcpu["halt_poll_success_ns"].unit, vcpu["halt_poll_success_ns"].exponent) == ("seconds", -9)


def test_pit_with_both_policies_is_made() -> None:
    vm = TinyVm(b"\xf4")
    try:
        vm.vm.create_pit("discard")
        with pytest.raises(BackendError, match="KVM_CREATE_PIT2 failed: File exists"):
            vm.vm.create_pit()
    finally:
        vm.close()


def test_hpet_takes_interrupt_0_from_the_kernels_timer() -> None:
    """KVM_PIT_FLAGS_HPET_LEGACY says so, and a reset gives it back."""
    vm = TinyVm(b"\xf4")
    try:
        vm.vm.create_pit()
        chips = KernelChips(vm.vm, has_pit=True)

        def legacy() -> int:
            return chips._get_pit()[3 * 24] & 1

        for on in (False, True, False):
            chips.connect_pit(on)
            assert legacy() == (0 if on else 1)
        chips.reset()
        assert legacy() == 0
    finally:
        vm.close()


def test_kvmclock_of_the_machine_can_be_set(tiny: Callable[..., TinyVm]) -> None:
    vm = tiny(FINISH)
    vm.vm.set_clock_ns(1_000_000_000)
    assert 1_000_000_000 <= vm.vm.clock_ns() < 2_000_000_000
