# SPDX-License-Identifier: Apache-2.0
"""The state a boot CPU starts in when not at the reset vector (-kernel): firmware makes it, KVM applies it."""

from __future__ import annotations

from typing import NamedTuple


class SegmentState(NamedTuple):
    """A segment register with its hidden part. ``access``: bits 8-23 of a descriptor's second word, shifted down by 8
    (type, S, DPL, P, AVL, L, D/B, G), so a flat 32-bit code segment is 0xC09B."""

    selector: int
    base: int = 0
    limit: int = 0xFFFF_FFFF
    access: int = 0xC093


class BootState(NamedTuple):
    """Registers of the boot CPU at its first instruction. What is not given keeps its value of the architectural reset.

    ``regs``: by name (rip, rsp, rbx, rflags …). ``segments``: by name (cs, ds, es, fs, gs, ss, tr, ldt).
    ``gdt`` and ``idt``: (base, limit).
    """

    regs: dict[str, int]
    segments: dict[str, SegmentState]
    gdt: tuple[int, int] = (0, 0xFFFF)
    idt: tuple[int, int] = (0, 0xFFFF)
    cr0: int = 0x6000_0010
    cr3: int = 0
    cr4: int = 0
    efer: int = 0
    #: (index, value) of model-specific registers that firmware sets on every CPU
    msrs: tuple[tuple[int, int], ...] = ()
