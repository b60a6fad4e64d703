# SPDX-License-Identifier: Apache-2.0
"""fw_cfg ports against the published specification; expectations marked (QEMU) were measured on QEMU 7.2."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.fakes import make_context, props
from vmmd.core.device import ResetKind
from vmmd.devices.isa.fw_cfg import DMA_OVERREAD_MAX, FwCfg
from vmmd.errors import InternalError

if TYPE_CHECKING:
    from tests.unit.fakes import FakeMachine

BLOCK = 0x100  # where the tests keep the DMA command
READ, SKIP, SELECT, WRITE = 2, 4, 8, 16


@pytest.fixture
def machine() -> FakeMachine:
    return make_context()


@pytest.fixture
def device(machine: FakeMachine) -> FwCfg:
    device = FwCfg(props(FwCfg), machine.ctx)
    device.plug()
    device.reset(ResetKind.COLD)
    return device


def read_item(machine: FakeMachine, key: int, length: int) -> bytes:
    machine.pio.write(0x510, 2, key)
    return bytes(machine.pio.read(0x511, 1) for _ in range(length))


def directory(machine: FakeMachine) -> dict[str, tuple[int, int]]:
    (count,) = struct.unpack(">I", read_item(machine, 0x19, 4))
    raw = read_item(machine, 0x19, 4 + 64 * count)[4:]
    entries = [struct.unpack(">IHH56s", raw[at : at + 64]) for at in range(0, len(raw), 64)]
    return {name.rstrip(b"\0").decode(): (key, size) for size, key, _, name in entries}


def dma(machine: FakeMachine, control: int, length: int, address: int, block: int = BLOCK) -> int:
    """Run one command as a guest does; returns the control word left behind."""
    machine.memory.write(block, struct.pack(">IIQ", control, length, address))
    machine.pio.write(0x514, 4, int.from_bytes((block >> 32).to_bytes(4, "big"), "little"))
    machine.pio.write(0x518, 4, int.from_bytes((block & 0xFFFF_FFFF).to_bytes(4, "big"), "little"))
    return int.from_bytes(machine.memory.read(block, 4), "big")


def test_signature_after_reset_is_selected(machine: FakeMachine, device: FwCfg) -> None:
    assert bytes(machine.pio.read(0x511, 1) for _ in range(6)) == b"QEMU\0\0"


def test_id_says_traditional_and_dma(machine: FakeMachine, device: FwCfg) -> None:
    assert read_item(machine, 1, 4) == b"\x03\0\0\0"


def test_selector_port_read_as_byte_gives_data(machine: FakeMachine, device: FwCfg) -> None:
    machine.pio.write(0x510, 2, 0)
    assert [machine.pio.read(port, 1) for port in (0x510, 0x511)] == [0x51, 0x45]  # (QEMU)


def test_selector_written_as_byte_changes_nothing(machine: FakeMachine, device: FwCfg) -> None:
    machine.pio.write(0x510, 2, 0)
    machine.pio.write(0x510, 1, 3)
    assert machine.pio.read(0x511, 1) == ord("Q")


def test_unknown_key_reads_zeros(machine: FakeMachine, device: FwCfg) -> None:
    assert read_item(machine, 0x7777, 3) == bytes(3)


def test_data_port_write_is_dropped(machine: FakeMachine, device: FwCfg) -> None:
    machine.pio.write(0x510, 2, 0)
    machine.pio.write(0x511, 1, 0x55)
    assert machine.pio.read(0x511, 1) == ord("Q")


def test_files_are_listed_by_name_with_keys_from_0x20(machine: FakeMachine, device: FwCfg) -> None:
    device.add_file("etc/b", b"12345")
    device.add_file("bootorder", b"")
    device.add_file("etc/a", b"xyz")
    assert directory(machine) == {"bootorder": (0x20, 0), "etc/a": (0x21, 3), "etc/b": (0x22, 5)}
    assert read_item(machine, 0x21, 4) == b"xyz\0"


def test_file_added_later_appears(machine: FakeMachine, device: FwCfg) -> None:
    device.add_file("z", b"1")
    assert list(directory(machine)) == ["z"]
    device.add_file("a", b"22")
    assert directory(machine) == {"a": (0x20, 2), "z": (0x21, 1)}
    device.remove_file("a")
    assert directory(machine) == {"z": (0x20, 1)}


def test_callable_is_asked_once_per_reset_at_first_select(machine: FakeMachine, device: FwCfg) -> None:
    calls: list[int] = []

    def content() -> bytes:
        calls.append(1)
        return b"%d" % len(calls)

    device.add_file("late", content, size_bytes=4)
    key, size = directory(machine)["late"]
    assert (size, calls) == (4, [])  # the directory does not ask: firmware reads it before it programs PCI
    assert read_item(machine, key, 4) == b"1\0\0\0"
    assert read_item(machine, key, 1) == b"1"
    device.reset(ResetKind.COLD)
    assert read_item(machine, key, 1) == b"2"


def test_callable_larger_than_announced_is_a_bug(device: FwCfg) -> None:
    device.add_file("f", lambda: b"abc", size_bytes=2)
    with pytest.raises(InternalError, match="f has grown"):
        device.item(0x20)


@pytest.mark.parametrize("name", ["", "x" * 56, "é"])
def test_file_name_out_of_bounds_is_refused(device: FwCfg, name: str) -> None:
    with pytest.raises(InternalError):
        device.add_file(name, b"")


def test_dma_signature_is_big_endian_ascii(machine: FakeMachine, device: FwCfg) -> None:
    low, high = machine.pio.read(0x514, 4), machine.pio.read(0x518, 4)
    assert low.to_bytes(4, "little") + high.to_bytes(4, "little") == b"QEMU CFG"
    assert (machine.pio.read(0x514, 1), machine.pio.read(0x51B, 1)) == (0x51, 0x47)  # (QEMU)


def test_dma_select_and_read_copies_and_fills_with_zeros(machine: FakeMachine, device: FwCfg) -> None:
    machine.memory.write(0x200, b"\xff" * 8)
    assert dma(machine, 0 << 16 | SELECT | READ, 6, 0x200) == 0
    assert machine.memory.read(0x200, 8) == b"QEMU\0\0\xff\xff"


def test_dma_skip_then_port_reads_go_on_behind(machine: FakeMachine, device: FwCfg) -> None:
    assert dma(machine, SELECT | SKIP, 2, 0) == 0
    assert machine.pio.read(0x511, 1) == ord("M")


def test_dma_skip_behind_end_stays_at_end(machine: FakeMachine, device: FwCfg) -> None:
    assert dma(machine, SELECT | SKIP, 0xFFFF_FFFF, 0) == 0
    assert machine.pio.read(0x511, 1) == 0


def test_dma_write_is_refused_with_error_bit(machine: FakeMachine, device: FwCfg) -> None:
    machine.memory.write(0x200, b"evil")
    assert dma(machine, SELECT | WRITE, 4, 0x200) == 1
    assert read_item(machine, 0, 4) == b"QEMU"


@pytest.mark.parametrize("target", [1 << 20, (1 << 20) - 2, (1 << 64) - 2, 0xFEE0_0000])
def test_dma_target_outside_ram_ends_with_error(machine: FakeMachine, device: FwCfg, target: int) -> None:
    assert dma(machine, SELECT | READ, 4, target) == 1


def test_dma_huge_overread_ends_with_error(machine: FakeMachine, device: FwCfg) -> None:
    assert dma(machine, SELECT | READ, 4 + DMA_OVERREAD_MAX + 1, 0) == 1


def test_dma_block_outside_ram_is_dropped(machine: FakeMachine, device: FwCfg) -> None:
    before = bytes(machine.ram)
    machine.pio.write(0x514, 4, 0xFFFF_FFFF)
    machine.pio.write(0x518, 4, 0xF0FF_FFFF)
    assert bytes(machine.ram) == before


def test_dma_high_half_is_used_once(machine: FakeMachine, device: FwCfg) -> None:
    machine.pio.write(0x514, 4, 0x01000000)  # address 1 << 32: no RAM there
    machine.pio.write(0x518, 4, int.from_bytes(BLOCK.to_bytes(4, "big"), "little"))
    machine.memory.write(BLOCK, struct.pack(">IIQ", SELECT | READ, 4, 0x200))
    machine.pio.write(0x518, 4, int.from_bytes(BLOCK.to_bytes(4, "big"), "little"))
    assert machine.memory.read(0x200, 4) == b"QEMU"


def test_unrealize_frees_the_ports(machine: FakeMachine, device: FwCfg) -> None:
    device.unrealize()
    assert machine.pio.ranges == ()


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0x50E, 0x51D), st.sampled_from((1, 2, 4)), st.booleans(), st.integers(0, 0xFFFF_FFFF)),
        max_size=40,
    ),
    st.binary(min_size=16, max_size=64),
)
def test_random_accesses_never_raise(accesses: list[tuple[int, int, bool, int]], block: bytes) -> None:
    """Whatever the guest does to the ports, with whatever in RAM: values stay within the access, nothing raises."""
    machine = make_context(1 << 16)
    device = FwCfg(props(FwCfg), machine.ctx)
    device.plug()
    device.add_file("etc/f", b"content")
    for at in range(0, 1 << 16, 4096):
        machine.memory.write(at, block)
    for port, size, is_write, value in accesses:
        if is_write:
            machine.pio.write(port, size, value & ((1 << 8 * size) - 1))
        else:
            assert 0 <= machine.pio.read(port, size) < 1 << 8 * size


def test_writable_file_takes_what_fits_until_a_reset(machine: FakeMachine, device: FwCfg) -> None:
    device.add_file("etc/fixed", b"fixed")
    device.add_writable_file("etc/place", 8)
    key = directory(machine)["etc/place"][0]
    assert directory(machine)["etc/place"] == (key, 8)
    machine.memory.write(0x800, bytes(range(1, 17)))
    assert dma(machine, SELECT | WRITE | key << 16, 6, 0x800) == 0
    assert dma(machine, WRITE, 2, 0x80A) == 0  # goes on where the last one ended
    assert read_item(machine, key, 8) == bytes((1, 2, 3, 4, 5, 6, 11, 12))
    assert dma(machine, WRITE, 1, 0x800) == 1  # full
    assert dma(machine, SELECT | WRITE | key << 16, 9, 0x800) == 1
    assert dma(machine, SELECT | WRITE | key << 16, 8, 0xFFFF_0000) == 1  # no RAM
    assert dma(machine, SELECT | WRITE | directory(machine)["etc/fixed"][0] << 16, 1, 0x800) == 1
    assert read_item(machine, key, 8) == bytes((1, 2, 3, 4, 5, 6, 11, 12))
    device.reset(ResetKind.COLD)
    assert read_item(machine, key, 8) == bytes(8)
