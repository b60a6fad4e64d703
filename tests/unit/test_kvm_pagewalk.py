# SPDX-License-Identifier: Apache-2.0
"""Page walks of 32-bit, PAE, 4- and 5-level paging over hand-made tables."""

from __future__ import annotations

import pytest

from tests.unit.fakes import FAKE_HVA
from vmmd.core.memory import GuestMemory, make_region
from vmmd.kvm import abi
from vmmd.kvm.cpustate import CR0_PG, CR4_LA57, CR4_PAE, CR4_PSE, EFER_LMA
from vmmd.kvm.pagewalk import walk

LARGE = 1 << 7
NX = 1 << 63


@pytest.fixture
def memory() -> GuestMemory:
    return GuestMemory([make_region(0, memoryview(bytearray(1 << 20)), FAKE_HVA, "ram")])


def sregs(cr3: int, cr4: int = 0, efer: int = 0) -> abi.Sregs:
    return abi.Sregs(cr0=CR0_PG | 1, cr3=cr3, cr4=cr4, efer=efer)


def kinds(steps: list[object]) -> list[str]:
    return [step.kind for step in steps]  # type: ignore[attr-defined]


def test_without_paging_the_address_is_itself(memory: GuestMemory) -> None:
    (step,) = walk(abi.Sregs(), memory, 0x12345)
    assert (step.kind, step.gpa) == ("page", 0x12345)


def test_four_levels_end_in_a_small_page(memory: GuestMemory) -> None:
    gva = 0xFFFF_8000_0060_3ABC
    memory.store_u64(0x1000 + 8 * 256, 0x2003)
    memory.store_u64(0x2000, 0x3003)
    memory.store_u64(0x3000 + 8 * 3, 0x4003)
    memory.store_u64(0x4000 + 8 * 3, 0x7_7000 | NX | 3)
    steps = walk(sregs(0x1000, CR4_PAE, EFER_LMA), memory, gva)
    assert kinds(steps) == ["PML4E", "PDPTE", "PDE", "PTE", "page"]
    assert (steps[-1].gpa, steps[-1].page_bytes) == (0x7_7ABC, 4096)
    assert steps[0].gpa == 0x1000 + 8 * 256


@pytest.mark.parametrize(("levels", "size"), [(3, 2 << 20), (2, 1 << 30)])
def test_large_pages_end_the_walk_early(memory: GuestMemory, levels: int, size: int) -> None:
    memory.store_u64(0x1000, 0x2003)
    memory.store_u64(0x2000, 0x3003 if levels == 3 else 0x4000_0000 | LARGE | 3)
    memory.store_u64(0x3000, 0x60_0000 | LARGE | 3)
    steps = walk(sregs(0x1000, CR4_PAE, EFER_LMA), memory, 0x12_3456)
    assert len(steps) == levels + 1
    assert steps[-1].page_bytes == size
    assert steps[-1].gpa == (0x60_0000 if levels == 3 else 0x4000_0000) + 0x12_3456


def test_five_levels_are_walked_with_la57(memory: GuestMemory) -> None:
    for level in range(4):
        memory.store_u64(0x1000 * (level + 1), 0x1000 * (level + 2) | 3)
    memory.store_u64(0x5000, 0x9003)
    steps = walk(sregs(0x1000, CR4_PAE | CR4_LA57, EFER_LMA), memory, 0x10)
    assert kinds(steps) == ["PML5E", "PML4E", "PDPTE", "PDE", "PTE", "page"]
    assert steps[-1].gpa == 0x9010


def test_pae_uses_four_directory_pointers(memory: GuestMemory) -> None:
    memory.store_u64(0x1020 + 8 * 3, 0x2001)
    memory.store_u64(0x2000 + 8 * 1, 0x20_0000 | LARGE | 3)
    steps = walk(sregs(0x1020, CR4_PAE), memory, 0xC020_0123)
    assert kinds(steps) == ["PDPTE", "PDE", "page"]
    assert steps[-1].gpa == 0x20_0123


def test_32_bit_tables_and_4_mib_pages(memory: GuestMemory) -> None:
    memory.store_u32(0x1000 + 4 * 1, 0x2003)
    memory.store_u32(0x2000 + 4 * 2, 0x8_8003)
    memory.store_u32(0x1000 + 4 * 2, 0x0080_0000 | 1 << 13 | LARGE | 3)
    assert walk(sregs(0x1000, CR4_PSE), memory, 0x0040_2ABC)[-1].gpa == 0x8_8ABC
    large = walk(sregs(0x1000, CR4_PSE), memory, 0x0081_2345)[-1]
    assert (large.gpa, large.page_bytes) == (0x1_0081_2345, 4 << 20)


@pytest.mark.parametrize(
    ("gva", "reason"),
    [
        (0x1_0000_0000_0000, "not a canonical address"),
        (0x1000, "not present"),
        (0x80_0000_0000, "the table is not in RAM"),
    ],
)
def test_faults_say_why(memory: GuestMemory, gva: int, reason: str) -> None:
    memory.store_u64(0x1000 + 8, 0xFFFF_F000 | 3)
    assert walk(sregs(0x1000, CR4_PAE, EFER_LMA), memory, gva)[-1].reason == reason
