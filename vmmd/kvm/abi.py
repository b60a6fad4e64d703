# SPDX-License-Identifier: Apache-2.0
"""The KVM API in ctypes: numbers and structures of ``<linux/kvm.h>`` and x86 ``<asm/kvm.h>`` (Linux 6.1).

``tests/unit/test_kvm_abi.py`` compiles a C probe against the installed headers and compares every number, size and
offset written here; a name ending in ``_`` or a class maps to the C name through ``C_STRUCTS``. Offsets of the mmap'ed
``kvm_run`` page are plain constants, because the run loop reads it through memoryview casts.
"""

from __future__ import annotations

import ctypes
from ctypes import c_char, c_int16, c_int32, c_int64, c_uint8, c_uint16, c_uint32, c_uint64

KVM_API_VERSION = 12

# --- ioctl numbers (asm-generic/ioctl.h: direction 2 bits, size 14, type 8, number 8) ---
_KVMIO = 0xAE << 8


def _io(number: int) -> int:
    return _KVMIO | number


def _iow(number: int, size: int) -> int:
    return 1 << 30 | size << 16 | _KVMIO | number


def _ior(number: int, size: int) -> int:
    return 2 << 30 | size << 16 | _KVMIO | number


def _iowr(number: int, size: int) -> int:
    return 3 << 30 | size << 16 | _KVMIO | number


# --- structures ---
class UserspaceMemoryRegion(ctypes.Structure):
    _fields_ = (
        ("slot", c_uint32), ("flags", c_uint32), ("guest_phys_addr", c_uint64), ("memory_size", c_uint64),
        ("userspace_addr", c_uint64),
    )  # fmt: skip


class IrqLevel(ctypes.Structure):
    _fields_ = (("irq", c_uint32), ("level", c_uint32))


class PitConfig(ctypes.Structure):
    _fields_ = (("flags", c_uint32), ("pad", c_uint32 * 15))


class ReinjectControl(ctypes.Structure):
    _fields_ = (("pit_reinject", c_uint8), ("reserved", c_uint8 * 31))


class PitChannelState(ctypes.Structure):
    _fields_ = (
        ("count", c_uint32), ("latched_count", c_uint16), ("count_latched", c_uint8), ("status_latched", c_uint8),
        ("status", c_uint8), ("read_state", c_uint8), ("write_state", c_uint8), ("write_latch", c_uint8),
        ("rw_mode", c_uint8), ("mode", c_uint8), ("bcd", c_uint8), ("gate", c_uint8), ("count_load_time", c_int64),
    )  # fmt: skip


class PitState2(ctypes.Structure):
    _fields_ = (("channels", PitChannelState * 3), ("flags", c_uint32), ("reserved", c_uint32 * 9))


class PicState(ctypes.Structure):
    _fields_ = tuple(
        (name, c_uint8)
        for name in (
            "last_irr", "irr", "imr", "isr", "priority_add", "irq_base", "read_reg_select", "poll", "special_mask",
            "init_state", "auto_eoi", "rotate_on_auto_eoi", "special_fully_nested_mode", "init4", "elcr", "elcr_mask",
        )
    )  # fmt: skip


class IoapicState(ctypes.Structure):
    _fields_ = (
        ("base_address", c_uint64), ("ioregsel", c_uint32), ("id", c_uint32), ("irr", c_uint32), ("pad", c_uint32),
        ("redirtbl", c_uint64 * 24),
    )  # fmt: skip


class _IrqchipUnion(ctypes.Union):
    _fields_ = (("dummy", c_char * 512), ("pic", PicState), ("ioapic", IoapicState))


class Irqchip(ctypes.Structure):
    _fields_ = (("chip_id", c_uint32), ("pad", c_uint32), ("chip", _IrqchipUnion))


class IrqRoutingIrqchip(ctypes.Structure):
    _fields_ = (("irqchip", c_uint32), ("pin", c_uint32))


class IrqRoutingMsi(ctypes.Structure):
    _fields_ = (("address_lo", c_uint32), ("address_hi", c_uint32), ("data", c_uint32), ("devid", c_uint32))


class _IrqRoutingUnion(ctypes.Union):
    _fields_ = (("irqchip", IrqRoutingIrqchip), ("msi", IrqRoutingMsi), ("pad", c_uint32 * 8))


class IrqRoutingEntry(ctypes.Structure):
    _fields_ = (
        ("gsi", c_uint32), ("type", c_uint32), ("flags", c_uint32), ("pad", c_uint32), ("u", _IrqRoutingUnion),
    )  # fmt: skip


class IrqRouting(ctypes.Structure):
    """Header; ``nr`` entries follow."""

    _fields_ = (("nr", c_uint32), ("flags", c_uint32))


class Msi(ctypes.Structure):
    _fields_ = (
        ("address_lo", c_uint32), ("address_hi", c_uint32), ("data", c_uint32), ("flags", c_uint32),
        ("devid", c_uint32), ("pad", c_uint8 * 12),
    )  # fmt: skip


class Irqfd(ctypes.Structure):
    _fields_ = (
        ("fd", c_uint32), ("gsi", c_uint32), ("flags", c_uint32), ("resamplefd", c_uint32), ("pad", c_uint8 * 16),
    )  # fmt: skip


class Ioeventfd(ctypes.Structure):
    _fields_ = (
        ("datamatch", c_uint64), ("addr", c_uint64), ("len", c_uint32), ("fd", c_int32), ("flags", c_uint32),
        ("pad", c_uint8 * 36),
    )  # fmt: skip


class CoalescedMmioZone(ctypes.Structure):
    _fields_ = (("addr", c_uint64), ("size", c_uint32), ("pio", c_uint32))


class CoalescedMmio(ctypes.Structure):
    _fields_ = (("phys_addr", c_uint64), ("len", c_uint32), ("pio", c_uint32), ("data", c_uint8 * 8))


class DirtyLog(ctypes.Structure):
    _fields_ = (("slot", c_uint32), ("padding1", c_uint32), ("dirty_bitmap", c_uint64))


class ClockData(ctypes.Structure):
    _fields_ = (
        ("clock", c_uint64), ("flags", c_uint32), ("pad0", c_uint32), ("realtime", c_uint64), ("host_tsc", c_uint64),
        ("pad", c_uint32 * 4),
    )  # fmt: skip


class EnableCap(ctypes.Structure):
    _fields_ = (("cap", c_uint32), ("flags", c_uint32), ("args", c_uint64 * 4), ("pad", c_uint8 * 64))


class StatsHeader(ctypes.Structure):
    _fields_ = (
        ("flags", c_uint32), ("name_size", c_uint32), ("num_desc", c_uint32), ("id_offset", c_uint32),
        ("desc_offset", c_uint32), ("data_offset", c_uint32),
    )  # fmt: skip


class StatsDesc(ctypes.Structure):
    """``name_size`` bytes of name follow."""

    _fields_ = (
        ("flags", c_uint32), ("exponent", c_int16), ("size", c_uint16), ("offset", c_uint32),
        ("bucket_size", c_uint32),
    )  # fmt: skip


#: general registers in the order of ``struct kvm_regs``
REGS = (
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
    "rip", "rflags",
)  # fmt: skip


class Regs(ctypes.Structure):
    _fields_ = tuple((name, c_uint64) for name in REGS)


class Segment(ctypes.Structure):
    _fields_ = (
        ("base", c_uint64), ("limit", c_uint32), ("selector", c_uint16), ("type", c_uint8), ("present", c_uint8),
        ("dpl", c_uint8), ("db", c_uint8), ("s", c_uint8), ("l", c_uint8), ("g", c_uint8), ("avl", c_uint8),
        ("unusable", c_uint8), ("padding", c_uint8),
    )  # fmt: skip


class Dtable(ctypes.Structure):
    _fields_ = (("base", c_uint64), ("limit", c_uint16), ("padding", c_uint16 * 3))


SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")


class Sregs(ctypes.Structure):
    _fields_ = (
        *((name, Segment) for name in SEGMENTS),
        ("gdt", Dtable), ("idt", Dtable), ("cr0", c_uint64), ("cr2", c_uint64), ("cr3", c_uint64), ("cr4", c_uint64),
        ("cr8", c_uint64), ("efer", c_uint64), ("apic_base", c_uint64), ("interrupt_bitmap", c_uint64 * 4),
    )  # fmt: skip


class Fpu(ctypes.Structure):
    _fields_ = (
        ("fpr", c_uint8 * 16 * 8), ("fcw", c_uint16), ("fsw", c_uint16), ("ftwx", c_uint8), ("pad1", c_uint8),
        ("last_opcode", c_uint16), ("last_ip", c_uint64), ("last_dp", c_uint64), ("xmm", c_uint8 * 16 * 16),
        ("mxcsr", c_uint32), ("pad2", c_uint32),
    )  # fmt: skip


class LapicState(ctypes.Structure):
    _fields_ = (("regs", c_uint8 * 0x400),)


class MsrEntry(ctypes.Structure):
    _fields_ = (("index", c_uint32), ("reserved", c_uint32), ("data", c_uint64))


class Msrs(ctypes.Structure):
    """Header; ``nmsrs`` entries follow."""

    _fields_ = (("nmsrs", c_uint32), ("pad", c_uint32))


class MsrList(ctypes.Structure):
    """Header; ``nmsrs`` 32-bit indices follow."""

    _fields_ = (("nmsrs", c_uint32),)


class CpuidEntry2(ctypes.Structure):
    _fields_ = (
        ("function", c_uint32), ("index", c_uint32), ("flags", c_uint32), ("eax", c_uint32), ("ebx", c_uint32),
        ("ecx", c_uint32), ("edx", c_uint32), ("padding", c_uint32 * 3),
    )  # fmt: skip


class Cpuid2(ctypes.Structure):
    """Header; ``nent`` entries follow."""

    _fields_ = (("nent", c_uint32), ("padding", c_uint32))


class MpState(ctypes.Structure):
    _fields_ = (("mp_state", c_uint32),)


class Translation(ctypes.Structure):
    _fields_ = (
        ("linear_address", c_uint64), ("physical_address", c_uint64), ("valid", c_uint8), ("writeable", c_uint8),
        ("usermode", c_uint8), ("pad", c_uint8 * 5),
    )  # fmt: skip


class _EventsException(ctypes.Structure):
    _fields_ = (
        ("injected", c_uint8), ("nr", c_uint8), ("has_error_code", c_uint8), ("pending", c_uint8),
        ("error_code", c_uint32),
    )  # fmt: skip


class _EventsInterrupt(ctypes.Structure):
    _fields_ = (("injected", c_uint8), ("nr", c_uint8), ("soft", c_uint8), ("shadow", c_uint8))


class _EventsNmi(ctypes.Structure):
    _fields_ = (("injected", c_uint8), ("pending", c_uint8), ("masked", c_uint8), ("pad", c_uint8))


class _EventsSmi(ctypes.Structure):
    _fields_ = (("smm", c_uint8), ("pending", c_uint8), ("smm_inside_nmi", c_uint8), ("latched_init", c_uint8))


class VcpuEvents(ctypes.Structure):
    _fields_ = (
        ("exception", _EventsException), ("interrupt", _EventsInterrupt), ("nmi", _EventsNmi),
        ("sipi_vector", c_uint32), ("flags", c_uint32), ("smi", _EventsSmi), ("triple_fault", c_uint8),
        ("reserved", c_uint8 * 26), ("exception_has_payload", c_uint8), ("exception_payload", c_uint64),
    )  # fmt: skip


class Debugregs(ctypes.Structure):
    _fields_ = (
        ("db", c_uint64 * 4), ("dr6", c_uint64), ("dr7", c_uint64), ("flags", c_uint64), ("reserved", c_uint64 * 9),
    )  # fmt: skip


class Xcr(ctypes.Structure):
    _fields_ = (("xcr", c_uint32), ("reserved", c_uint32), ("value", c_uint64))


class Xcrs(ctypes.Structure):
    _fields_ = (("nr_xcrs", c_uint32), ("flags", c_uint32), ("xcrs", Xcr * 16), ("padding", c_uint64 * 16))


class Xsave(ctypes.Structure):
    _fields_ = (("region", c_uint32 * 1024),)


#: our class -> C name, for the probe
C_STRUCTS: dict[type[ctypes.Structure], str] = {
    UserspaceMemoryRegion: "kvm_userspace_memory_region", IrqLevel: "kvm_irq_level", PitConfig: "kvm_pit_config",
    ReinjectControl: "kvm_reinject_control", PitChannelState: "kvm_pit_channel_state", PitState2: "kvm_pit_state2",
    PicState: "kvm_pic_state", IoapicState: "kvm_ioapic_state", Irqchip: "kvm_irqchip",
    IrqRoutingIrqchip: "kvm_irq_routing_irqchip", IrqRoutingMsi: "kvm_irq_routing_msi",
    IrqRoutingEntry: "kvm_irq_routing_entry", IrqRouting: "kvm_irq_routing", Msi: "kvm_msi", Irqfd: "kvm_irqfd",
    Ioeventfd: "kvm_ioeventfd", CoalescedMmioZone: "kvm_coalesced_mmio_zone", CoalescedMmio: "kvm_coalesced_mmio",
    DirtyLog: "kvm_dirty_log", ClockData: "kvm_clock_data", EnableCap: "kvm_enable_cap",
    StatsHeader: "kvm_stats_header", StatsDesc: "kvm_stats_desc", Regs: "kvm_regs", Segment: "kvm_segment",
    Dtable: "kvm_dtable", Sregs: "kvm_sregs", Fpu: "kvm_fpu", LapicState: "kvm_lapic_state",
    MsrEntry: "kvm_msr_entry", Msrs: "kvm_msrs", MsrList: "kvm_msr_list", CpuidEntry2: "kvm_cpuid_entry2",
    Cpuid2: "kvm_cpuid2", MpState: "kvm_mp_state", Translation: "kvm_translation", VcpuEvents: "kvm_vcpu_events",
    Debugregs: "kvm_debugregs", Xcr: "kvm_xcr", Xcrs: "kvm_xcrs", Xsave: "kvm_xsave",
}  # fmt: skip

# --- system ---
KVM_GET_API_VERSION = _io(0x00)
KVM_CREATE_VM = _io(0x01)
KVM_GET_MSR_INDEX_LIST = _iowr(0x02, 4)
KVM_CHECK_EXTENSION = _io(0x03)
KVM_GET_VCPU_MMAP_SIZE = _io(0x04)
KVM_GET_SUPPORTED_CPUID = _iowr(0x05, 8)
KVM_GET_MSR_FEATURE_INDEX_LIST = _iowr(0x0A, 4)
# --- vm ---
KVM_CREATE_VCPU = _io(0x41)
KVM_GET_DIRTY_LOG = _iow(0x42, 16)
KVM_SET_USER_MEMORY_REGION = _iow(0x46, 32)
KVM_SET_TSS_ADDR = _io(0x47)
KVM_SET_IDENTITY_MAP_ADDR = _iow(0x48, 8)
KVM_CREATE_IRQCHIP = _io(0x60)
KVM_IRQ_LINE = _iow(0x61, 8)
KVM_GET_IRQCHIP = _iowr(0x62, 520)
KVM_SET_IRQCHIP = _ior(0x63, 520)
KVM_REGISTER_COALESCED_MMIO = _iow(0x67, 16)
KVM_UNREGISTER_COALESCED_MMIO = _iow(0x68, 16)
KVM_SET_GSI_ROUTING = _iow(0x6A, 8)
KVM_REINJECT_CONTROL = _io(0x71)
KVM_IRQFD = _iow(0x76, 32)
KVM_CREATE_PIT2 = _iow(0x77, 64)
KVM_SET_BOOT_CPU_ID = _io(0x78)
KVM_IOEVENTFD = _iow(0x79, 64)
KVM_SET_CLOCK = _iow(0x7B, 48)
KVM_GET_CLOCK = _ior(0x7C, 48)
KVM_GET_PIT2 = _ior(0x9F, 112)
KVM_SET_PIT2 = _iow(0xA0, 112)
KVM_SIGNAL_MSI = _iow(0xA5, 32)
KVM_ENABLE_CAP = _iow(0xA3, 104)
KVM_GET_STATS_FD = _io(0xCE)
# --- vcpu ---
KVM_RUN = _io(0x80)
KVM_GET_REGS = _ior(0x81, 144)
KVM_SET_REGS = _iow(0x82, 144)
KVM_GET_SREGS = _ior(0x83, 312)
KVM_SET_SREGS = _iow(0x84, 312)
KVM_TRANSLATE = _iowr(0x85, 24)
KVM_GET_MSRS = _iowr(0x88, 8)
KVM_SET_MSRS = _iow(0x89, 8)
KVM_GET_FPU = _ior(0x8C, 416)
KVM_SET_FPU = _iow(0x8D, 416)
KVM_GET_LAPIC = _ior(0x8E, 1024)
KVM_SET_LAPIC = _iow(0x8F, 1024)
KVM_SET_CPUID2 = _iow(0x90, 8)
KVM_GET_CPUID2 = _iowr(0x91, 8)
KVM_GET_MP_STATE = _ior(0x98, 4)
KVM_SET_MP_STATE = _iow(0x99, 4)
KVM_NMI = _io(0x9A)
KVM_INTERRUPT = _iow(0x86, 4)
KVM_X86_SETUP_MCE = _iow(0x9C, 8)
KVM_X86_GET_MCE_CAP_SUPPORTED = _ior(0x9D, 8)
KVM_GET_VCPU_EVENTS = _ior(0x9F, 64)
KVM_SET_VCPU_EVENTS = _iow(0xA0, 64)
KVM_GET_DEBUGREGS = _ior(0xA1, 128)
KVM_SET_DEBUGREGS = _iow(0xA2, 128)
KVM_SET_TSC_KHZ = _io(0xA2)
KVM_GET_TSC_KHZ = _io(0xA3)
KVM_GET_XSAVE = _ior(0xA4, 4096)
KVM_SET_XSAVE = _iow(0xA5, 4096)
KVM_GET_XCRS = _ior(0xA6, 392)
KVM_SET_XCRS = _iow(0xA7, 392)
KVM_KVMCLOCK_CTRL = _io(0xAD)
KVM_SMI = _io(0xB7)

# --- capabilities ---
KVM_CAP_IRQCHIP = 0
KVM_CAP_SPLIT_IRQCHIP = 121
KVM_CAP_USER_MEMORY = 3
KVM_CAP_SET_TSS_ADDR = 4
KVM_CAP_EXT_CPUID = 7
KVM_CAP_NR_VCPUS = 9
KVM_CAP_NR_MEMSLOTS = 10
KVM_CAP_NOP_IO_DELAY = 12
KVM_CAP_MP_STATE = 14
KVM_CAP_COALESCED_MMIO = 15
KVM_CAP_DESTROY_MEMORY_REGION_WORKS = 21
KVM_CAP_USER_NMI = 22
KVM_CAP_REINJECT_CONTROL = 24
KVM_CAP_IRQ_ROUTING = 25
KVM_CAP_MCE = 31
KVM_CAP_IRQFD = 32
KVM_CAP_PIT2 = 33
KVM_CAP_IOEVENTFD = 36
KVM_CAP_SET_IDENTITY_MAP_ADDR = 37
KVM_CAP_ADJUST_CLOCK = 39
KVM_CAP_INTERNAL_ERROR_DATA = 40
KVM_CAP_VCPU_EVENTS = 41
KVM_CAP_DEBUGREGS = 50
KVM_CAP_XSAVE = 55
KVM_CAP_XCRS = 56
KVM_CAP_TSC_CONTROL = 60
KVM_CAP_GET_TSC_KHZ = 61
KVM_CAP_MAX_VCPUS = 66
KVM_CAP_TSC_DEADLINE_TIMER = 72
KVM_CAP_SYNC_REGS = 74
KVM_CAP_KVMCLOCK_CTRL = 76
KVM_CAP_SIGNAL_MSI = 77
KVM_CAP_READONLY_MEM = 81
KVM_CAP_IRQFD_RESAMPLE = 82
KVM_CAP_IOEVENTFD_NO_LENGTH = 100
KVM_CAP_CHECK_EXTENSION_VM = 105
KVM_CAP_X86_SMM = 117
KVM_CAP_MAX_VCPU_ID = 128
KVM_CAP_X2APIC_API = 129
KVM_CAP_IMMEDIATE_EXIT = 136
KVM_CAP_X86_DISABLE_EXITS = 143
KVM_CAP_COALESCED_PIO = 162
KVM_CAP_BINARY_STATS_FD = 203
KVM_CAP_XSAVE2 = 208

# --- exit reasons ---
KVM_EXIT_UNKNOWN = 0
KVM_EXIT_EXCEPTION = 1
KVM_EXIT_IO = 2
KVM_EXIT_HYPERCALL = 3
KVM_EXIT_DEBUG = 4
KVM_EXIT_HLT = 5
KVM_EXIT_MMIO = 6
KVM_EXIT_IRQ_WINDOW_OPEN = 7
KVM_EXIT_SHUTDOWN = 8
KVM_EXIT_FAIL_ENTRY = 9
KVM_EXIT_INTR = 10
KVM_EXIT_SET_TPR = 11
KVM_EXIT_TPR_ACCESS = 12
KVM_EXIT_NMI = 16
KVM_EXIT_INTERNAL_ERROR = 17
KVM_EXIT_SYSTEM_EVENT = 24
KVM_EXIT_IOAPIC_EOI = 26
KVM_EXIT_HYPERV = 27
KVM_EXIT_X86_RDMSR = 29
KVM_EXIT_X86_WRMSR = 30
KVM_EXIT_XEN = 34
KVM_EXIT_NOTIFY = 37

KVM_INTERNAL_ERROR_EMULATION = 1
KVM_INTERNAL_ERROR_SIMUL_EX = 2
KVM_INTERNAL_ERROR_DELIVERY_EV = 3
KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON = 4
KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES = 1

KVM_SYSTEM_EVENT_SHUTDOWN = 1
KVM_SYSTEM_EVENT_RESET = 2
KVM_SYSTEM_EVENT_CRASH = 3

# --- flags ---
KVM_MEM_LOG_DIRTY_PAGES = 1
KVM_MEM_READONLY = 2
KVM_IOEVENTFD_FLAG_DATAMATCH = 1
KVM_IOEVENTFD_FLAG_PIO = 2
KVM_IOEVENTFD_FLAG_DEASSIGN = 4
KVM_IRQFD_FLAG_DEASSIGN = 1
KVM_IRQFD_FLAG_RESAMPLE = 2
KVM_IRQ_ROUTING_IRQCHIP = 1
KVM_IRQ_ROUTING_MSI = 2
KVM_IRQCHIP_PIC_MASTER = 0
KVM_IRQCHIP_PIC_SLAVE = 1
KVM_IRQCHIP_IOAPIC = 2
KVM_IOAPIC_NUM_PINS = 24
KVM_PIT_SPEAKER_DUMMY = 1
KVM_CPUID_FLAG_SIGNIFCANT_INDEX = 1
KVM_MP_STATE_RUNNABLE = 0
KVM_MP_STATE_UNINITIALIZED = 1
KVM_MP_STATE_INIT_RECEIVED = 2
KVM_MP_STATE_HALTED = 3
KVM_MP_STATE_SIPI_RECEIVED = 4
KVM_VCPUEVENT_VALID_NMI_PENDING = 1
KVM_VCPUEVENT_VALID_SIPI_VECTOR = 2
KVM_VCPUEVENT_VALID_SHADOW = 4
KVM_VCPUEVENT_VALID_SMM = 8
KVM_X2APIC_API_USE_32BIT_IDS = 1
KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK = 2
KVM_STATS_TYPE_MASK = 0xF
KVM_STATS_UNIT_SHIFT = 4
KVM_STATS_UNIT_MASK = 0xF << 4
KVM_STATS_BASE_SHIFT = 8
KVM_STATS_BASE_MASK = 0xF << 8
KVM_PIO_PAGE_OFFSET = 1
KVM_COALESCED_MMIO_PAGE_OFFSET = 2

#: offsets in ``struct kvm_run``: our name -> (C member, offset in bytes)
RUN_OFFSETS: dict[str, tuple[str, int]] = {
    "RUN_REQUEST_INTERRUPT_WINDOW": ("request_interrupt_window", 0),
    "RUN_IMMEDIATE_EXIT": ("immediate_exit", 1),
    "RUN_EXIT_REASON": ("exit_reason", 8),
    "RUN_READY_FOR_INTERRUPT": ("ready_for_interrupt_injection", 12),
    "RUN_IF_FLAG": ("if_flag", 13),
    "RUN_CR8": ("cr8", 16),
    "RUN_APIC_BASE": ("apic_base", 24),
    "RUN_UNION": ("hw.hardware_exit_reason", 32),
    "RUN_FAIL_CPU": ("fail_entry.cpu", 40),
    "RUN_IO_DIRECTION": ("io.direction", 32),
    "RUN_IO_SIZE": ("io.size", 33),
    "RUN_IO_PORT": ("io.port", 34),
    "RUN_IO_COUNT": ("io.count", 36),
    "RUN_IO_DATA_OFFSET": ("io.data_offset", 40),
    "RUN_MMIO_ADDRESS": ("mmio.phys_addr", 32),
    "RUN_MMIO_DATA": ("mmio.data", 40),
    "RUN_MMIO_LENGTH": ("mmio.len", 48),
    "RUN_MMIO_IS_WRITE": ("mmio.is_write", 52),
    "RUN_INTERNAL_SUBERROR": ("internal.suberror", 32),
    "RUN_INTERNAL_NDATA": ("internal.ndata", 36),
    "RUN_INTERNAL_DATA": ("internal.data", 40),
    "RUN_INSN_SIZE": ("emulation_failure.insn_size", 48),
    "RUN_INSN_BYTES": ("emulation_failure.insn_bytes", 49),
    "RUN_EOI_VECTOR": ("eoi.vector", 32),
    "RUN_SYSTEM_EVENT_TYPE": ("system_event.type", 32),
    "RUN_SYSTEM_EVENT_DATA": ("system_event.data", 40),
}
