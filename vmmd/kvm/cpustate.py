# SPDX-License-Identifier: Apache-2.0
"""A vCPU's architectural state: power-on values (Intel SDM vol. 3 §10.1.1), boot state, text for ``info registers``.

Affinity: the vCPU's thread, or the loop while the vCPU is parked.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Protocol

from vmmd.kvm import abi, msr

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmmd.core.bootstate import BootState, SegmentState

CR0_PE = 1
CR0_PG = 1 << 31
CR4_PSE = 1 << 4
CR4_PAE = 1 << 5
CR4_LA57 = 1 << 12
EFER_LMA = 1 << 10
RFLAGS_VM = 1 << 17

_MXCSR_RESET = 0x1F80
_DR6_RESET = 0xFFFF_0FF0
_DR7_RESET = 0x400
_APIC_BASE_ENABLED = 0xFEE0_0800
_APIC_BASE_BSP = 1 << 8


class Machine(Protocol):
    """What of the machine is part of the state."""

    @property
    def has_xcrs(self) -> bool: ...
    @property
    def msr_indices(self) -> Iterable[int]: ...


class State(Protocol):
    """A vCPU whose state can be read and set: ``kvm.vcpu.Vcpu``, or one that never runs."""

    mce_banks: int

    @property
    def vm(self) -> Machine: ...
    @property
    def local_apic(self) -> object | None: ...

    def is_halted(self) -> bool: ...
    def set_msrs(self, values: dict[int, int]) -> list[int]: ...
    def regs(self) -> abi.Regs: ...
    def set_regs(self, regs: abi.Regs) -> None: ...
    def sregs(self) -> abi.Sregs: ...
    def set_sregs(self, sregs: abi.Sregs) -> None: ...
    def xsave(self) -> bytes: ...
    def set_xsave(self, area: bytes) -> None: ...
    def set_xcr0(self, value: int) -> None: ...
    def debugregs(self) -> abi.Debugregs: ...
    def set_debugregs(self, debugregs: abi.Debugregs) -> None: ...
    def events(self) -> abi.VcpuEvents: ...
    def set_events(self, events: abi.VcpuEvents) -> None: ...
    def set_lapic(self, lapic: abi.LapicState) -> None: ...
    def set_mp_state(self, state: int) -> None: ...


def reset(
    vcpu: State, lapic: abi.LapicState | None, *, signature: int, is_bsp: bool, boot: BootState | None = None
) -> None:
    """Bring a parked vCPU to power-on state. Raises KvmError.

    ``lapic`` is the local APIC as KVM made it (None: not in the kernel), ``signature`` the value of CPUID.1:EAX, which
    EDX shows at reset. The boot CPU starts at the reset vector, or in ``boot``; the others wait for INIT and SIPI.
    """
    vcpu.set_msrs(msr.reset_values(vcpu.vm.msr_indices, vcpu.mce_banks) | dict(boot.msrs if boot is not None else ()))
    sregs = reset_sregs(is_bsp)
    regs = abi.Regs(rip=0xFFF0, rflags=2, rdx=signature)
    if boot is not None and is_bsp:
        _apply_boot(regs, sregs, boot)
    vcpu.set_sregs(sregs)
    vcpu.set_regs(regs)
    vcpu.set_xsave(_reset_xsave())
    if vcpu.vm.has_xcrs:
        vcpu.set_xcr0(1)
    vcpu.set_debugregs(abi.Debugregs(dr6=_DR6_RESET, dr7=_DR7_RESET))
    events = abi.VcpuEvents(
        flags=abi.KVM_VCPUEVENT_VALID_NMI_PENDING | abi.KVM_VCPUEVENT_VALID_SIPI_VECTOR | abi.KVM_VCPUEVENT_VALID_SHADOW
    )
    vcpu.set_events(events)
    if lapic is not None:
        vcpu.set_lapic(lapic)
    if vcpu.local_apic is None:  # otherwise KVM knows but running CPUs
        vcpu.set_mp_state(abi.KVM_MP_STATE_RUNNABLE if is_bsp else abi.KVM_MP_STATE_UNINITIALIZED)


def initialise(vcpu: State, *, signature: int, is_bsp: bool) -> None:
    """What INIT does to a CPU; FPU, MSRs and the place of its APIC stay. Raises KvmError."""
    apic_base = vcpu.sregs().apic_base
    sregs = reset_sregs(is_bsp)
    sregs.apic_base = apic_base
    vcpu.set_sregs(sregs)
    vcpu.set_regs(abi.Regs(rip=0xFFF0, rflags=2, rdx=signature))
    vcpu.set_debugregs(abi.Debugregs(dr6=_DR6_RESET, dr7=_DR7_RESET))
    vcpu.set_events(abi.VcpuEvents(flags=abi.KVM_VCPUEVENT_VALID_NMI_PENDING | abi.KVM_VCPUEVENT_VALID_SHADOW))


def start_up(vcpu: State, vector: int) -> None:
    """Where a start-up IPI lets a CPU begin (SDM vol. 3 §10.4.4.2). Raises KvmError."""
    sregs, regs = vcpu.sregs(), vcpu.regs()
    sregs.cs.selector, sregs.cs.base = vector << 8, vector << 12
    regs.rip = 0
    vcpu.set_sregs(sregs)
    vcpu.set_regs(regs)


def reset_sregs(is_bsp: bool) -> abi.Sregs:
    """Segment, table and control registers of the SDM's table 10-1."""
    sregs = abi.Sregs(cr0=0x6000_0010)
    for name in ("ds", "es", "fs", "gs", "ss"):
        setattr(sregs, name, abi.Segment(limit=0xFFFF, type=3, present=1, s=1))
    sregs.cs = abi.Segment(base=0xFFFF_0000, limit=0xFFFF, selector=0xF000, type=0xB, present=1, s=1)
    sregs.ldt = abi.Segment(limit=0xFFFF, type=2, present=1)
    sregs.tr = abi.Segment(limit=0xFFFF, type=0xB, present=1)
    sregs.gdt.limit = sregs.idt.limit = 0xFFFF
    sregs.apic_base = _APIC_BASE_ENABLED | (_APIC_BASE_BSP if is_bsp else 0)
    return sregs


def _apply_boot(regs: abi.Regs, sregs: abi.Sregs, boot: BootState) -> None:
    for name, value in boot.regs.items():
        setattr(regs, name, value)
    for name, segment in boot.segments.items():
        setattr(sregs, name, _segment(segment))
    sregs.gdt.base, sregs.gdt.limit = boot.gdt
    sregs.idt.base, sregs.idt.limit = boot.idt
    sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer = boot.cr0, boot.cr3, boot.cr4, boot.efer


def _segment(state: SegmentState) -> abi.Segment:
    access = state.access
    return abi.Segment(
        base=state.base,
        limit=state.limit,
        selector=state.selector,
        type=access & 0xF,
        s=access >> 4 & 1,
        dpl=access >> 5 & 3,
        present=access >> 7 & 1,
        avl=access >> 12 & 1,
        l=access >> 13 & 1,
        db=access >> 14 & 1,
        g=access >> 15 & 1,
        unusable=0 if access >> 7 & 1 else 1,
    )


def _reset_xsave() -> bytes:
    """An XSAVE area in standard format: x87 after FINIT, SSE zero, header saying that both are valid."""
    area = bytearray(4096)
    struct.pack_into("<H", area, 0, 0x37F)  # FCW
    struct.pack_into("<I", area, 24, _MXCSR_RESET)
    struct.pack_into("<Q", area, 512, 3)  # XSTATE_BV: x87, SSE
    return bytes(area)


# --- reading ---
def registers(vcpu: State) -> dict[str, int]:
    """General, control and segment registers by name (``cs`` the selector, ``cs_base`` the base …)."""
    regs, sregs = vcpu.regs(), vcpu.sregs()
    values = {name: int(getattr(regs, name)) for name in abi.REGS}
    values |= {name: int(getattr(sregs, name)) for name in ("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base")}
    for name in abi.SEGMENTS:
        segment = getattr(sregs, name)
        values[name] = int(segment.selector)
        values[f"{name}_base"] = int(segment.base)
        values[f"{name}_limit"] = int(segment.limit)
        values[f"{name}_access"] = _access(segment)
    for name in ("gdt", "idt"):
        table = getattr(sregs, name)
        values[f"{name}_base"] = int(table.base)
        values[f"{name}_limit"] = int(table.limit)
    return values


def _access(segment: abi.Segment) -> int:
    if segment.unusable:
        return 0
    access: int = segment.type | segment.s << 4 | segment.dpl << 5 | segment.present << 7
    access |= segment.avl << 12 | segment.l << 13 | segment.db << 14 | segment.g << 15
    return access


def is_long_mode_code(sregs: abi.Sregs) -> bool:
    """True when the vCPU executes 64-bit code."""
    return bool(sregs.efer & EFER_LMA and sregs.cs.l)


def registers_text(vcpu: State) -> str:
    """What ``info registers`` shows of one vCPU, in QEMU's layout (without the ``CPU#n`` line)."""
    regs, sregs = vcpu.regs(), vcpu.sregs()
    events = vcpu.events()
    wide = is_long_mode_code(sregs)
    lines = _general_lines(regs, wide)
    halted = vcpu.is_halted()
    cpl = 3 if regs.rflags & RFLAGS_VM else sregs.ss.dpl
    lines.append(
        f"{_ip(regs, wide)} [{_flags(regs.rflags)}] CPL={cpl} II={1 if events.interrupt.shadow else 0} A20=1"
        f" SMM={events.smi.smm & 1} HLT={1 if halted else 0}"
    )
    width = 16 if wide else 8
    for name in ("es", "cs", "ss", "ds", "fs", "gs", "ldt", "tr"):
        lines.append(_segment_line(name, getattr(sregs, name), sregs, width))
    for name in ("gdt", "idt"):
        table = getattr(sregs, name)
        lines.append(f"{name.upper()}=     {table.base:0{width}x} {table.limit:08x}")
    lines.append(f"CR0={sregs.cr0:08x} CR2={sregs.cr2:0{width}x} CR3={sregs.cr3:0{width}x} CR4={sregs.cr4:08x}")
    lines += _debug_lines(vcpu)
    lines.append(f"EFER={sregs.efer:016x}")
    lines += _fpu_lines(vcpu, 16 if wide else 8)
    return "\n".join(lines) + "\n"


def _general_lines(regs: abi.Regs, wide: bool) -> list[str]:
    if not wide:
        return [
            " ".join(f"E{name.upper()}={getattr(regs, 'r' + name) & 0xFFFF_FFFF:08x}" for name in group)
            for group in (("ax", "bx", "cx", "dx"), ("si", "di", "bp", "sp"))
        ]
    groups = (
        ("rax", "rbx", "rcx", "rdx"), ("rsi", "rdi", "rbp", "rsp"), ("r8", "r9", "r10", "r11"),
        ("r12", "r13", "r14", "r15"),
    )  # fmt: skip
    return [" ".join(f"{name.upper():3}={getattr(regs, name):016x}" for name in group) for group in groups]


def _ip(regs: abi.Regs, wide: bool) -> str:
    if wide:
        return f"RIP={regs.rip:016x} RFL={regs.rflags:08x}"
    return f"EIP={regs.rip & 0xFFFF_FFFF:08x} EFL={regs.rflags & 0xFFFF_FFFF:08x}"


def _flags(rflags: int) -> str:
    bits = (("D", 10), ("O", 11), ("S", 7), ("Z", 6), ("A", 4), ("P", 2), ("C", 0))
    return "".join(letter if rflags >> bit & 1 else "-" for letter, bit in bits)


_SYSTEM_TYPES_32 = (
    "Reserved", "TSS16-avl", "LDT", "TSS16-busy", "CallGate16", "TaskGate", "IntGate16", "TrapGate16", "Reserved",
    "TSS32-avl", "Reserved", "TSS32-busy", "CallGate32", "Reserved", "IntGate32", "TrapGate32",
)  # fmt: skip
_SYSTEM_TYPES_64 = (
    "<hiword>", "Reserved", "LDT", "Reserved", "Reserved", "Reserved", "Reserved", "Reserved", "Reserved", "TSS64-avl",
    "Reserved", "TSS64-busy", "CallGate64", "Reserved", "IntGate64", "TrapGate64",
)  # fmt: skip


def _segment_line(name: str, segment: abi.Segment, sregs: abi.Sregs, width: int) -> str:
    access = _access(segment)
    line = f"{name.upper():3}={segment.selector:04x} {segment.base:0{width}x} {segment.limit:08x} {access << 8:08x}"
    if not sregs.cr0 & CR0_PE or not access & 0x80:
        return line
    line += f" DPL={segment.dpl} "
    kind = segment.type
    if not segment.s:
        return line + (_SYSTEM_TYPES_64 if sregs.efer & EFER_LMA else _SYSTEM_TYPES_32)[kind]
    if kind & 8:
        size = "CS64" if segment.l else "CS32" if segment.db else "CS16"
        attributes = ("C" if kind & 4 else "-") + ("R" if kind & 2 else "-")
    else:
        size = "DS  " if segment.db or sregs.efer & EFER_LMA else "DS16"
        attributes = ("E" if kind & 4 else "-") + ("W" if kind & 2 else "-")
    return line + f"{size} [{attributes}{'A' if kind & 1 else '-'}]"


def _debug_lines(vcpu: State) -> list[str]:
    debug = vcpu.debugregs()
    # QEMU-COMPAT: the line of DR0-DR3 ends in a blank
    first = "".join(f"DR{number}={value:016x} " for number, value in enumerate(debug.db))
    return [first, f"DR6={debug.dr6:016x} DR7={debug.dr7:016x}"]


def _fpu_lines(vcpu: State, xmm_count: int) -> list[str]:
    area = vcpu.xsave()  # KVM_GET_FPU leaves MXCSR out
    fcw, fsw, tags = struct.unpack_from("<HHB", area)
    (mxcsr,) = struct.unpack_from("<I", area, 24)
    top = fsw >> 11 & 7
    lines = [f"FCW={fcw:04x} FSW={fsw:04x} [ST={top}] FTW={tags:02x} MXCSR={mxcsr:08x}"]
    cells = []
    for number in range(8):
        # FPRn is physical register n; the save area starts at the top of the stack
        mantissa, exponent = struct.unpack_from("<QH", area, 32 + 16 * ((number - top) & 7))
        cells.append(f"FPR{number}={mantissa:016x} {exponent:04x}")
    for number in range(xmm_count):
        low, high = struct.unpack_from("<QQ", area, 160 + 16 * number)
        cells.append(f"XMM{number:02d}={high:016x} {low:016x}")
    lines += [f"{cells[pair]} {cells[pair + 1]}" for pair in range(0, len(cells), 2)]
    return lines
