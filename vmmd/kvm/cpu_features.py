# SPDX-License-Identifier: Apache-2.0
"""Names of CPU features and the CPUID (or MSR) bit of each, spelled as QEMU spells them.

Intel SDM vol. 2 CPUID, AMD APM vol. 3 appendix E, the kernel's Documentation/virt/kvm/x86/cpuid.rst. Words stand in the
order in which missing features are reported.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple


class Word(NamedTuple):
    """A register full of features. ``register``: 0-3 are EAX, EBX, ECX, EDX; -1: ``leaf`` is an MSR index."""

    label: str  # as in warnings
    leaf: int
    subleaf: int
    register: int
    names: str  # bit:name, separated by blanks


EAX, EBX, ECX, EDX, MSR = 0, 1, 2, 3, -1

# fmt: off
WORDS: tuple[Word, ...] = (
    Word("CPUID.01H:EDX", 1, 0, EDX,
         "0:fpu 1:vme 2:de 3:pse 4:tsc 5:msr 6:pae 7:mce 8:cx8 9:apic 11:sep 12:mtrr 13:pge 14:mca 15:cmov 16:pat "
         "17:pse36 18:pn 19:clflush 21:ds 22:acpi 23:mmx 24:fxsr 25:sse 26:sse2 27:ss 28:ht 29:tm 30:ia64 31:pbe"),
    Word("CPUID.01H:ECX", 1, 0, ECX,
         "0:pni 1:pclmulqdq 2:dtes64 3:monitor 4:ds-cpl 5:vmx 6:smx 7:est 8:tm2 9:ssse3 10:cid 12:fma 13:cx16 14:xtpr "
         "15:pdcm 17:pcid 18:dca 19:sse4.1 20:sse4.2 21:x2apic 22:movbe 23:popcnt 24:tsc-deadline 25:aes 26:xsave "
         "28:avx 29:f16c 30:rdrand 31:hypervisor"),
    Word("CPUID.07H:EBX", 7, 0, EBX,
         "0:fsgsbase 1:tsc-adjust 2:sgx 3:bmi1 4:hle 5:avx2 7:smep 8:bmi2 9:erms 10:invpcid 11:rtm 14:mpx 16:avx512f "
         "17:avx512dq 18:rdseed 19:adx 20:smap 21:avx512ifma 22:pcommit 23:clflushopt 24:clwb 25:intel-pt 26:avx512pf "
         "27:avx512er 28:avx512cd 29:sha-ni 30:avx512bw 31:avx512vl"),
    Word("CPUID.07H:ECX", 7, 0, ECX,
         "1:avx512vbmi 2:umip 3:pku 5:waitpkg 6:avx512vbmi2 8:gfni 9:vaes 10:vpclmulqdq 11:avx512vnni 12:avx512bitalg "
         "14:avx512-vpopcntdq 16:la57 22:rdpid 24:bus-lock-detect 25:cldemote 27:movdiri 28:movdir64b 30:sgxlc 31:pks"),
    Word("CPUID.07H:EDX", 7, 0, EDX,
         "2:avx512-4vnniw 3:avx512-4fmaps 4:fsrm 8:avx512-vp2intersect 10:md-clear 14:serialize 16:tsx-ldtrk "
         "19:arch-lbr 22:amx-bf16 23:avx512-fp16 24:amx-tile 25:amx-int8 26:spec-ctrl 27:stibp 29:arch-capabilities "
         "30:core-capability 31:ssbd"),
    Word("CPUID.07H:EAX", 7, 1, EAX, "4:avx-vnni 5:avx512-bf16"),
    Word("CPUID.80000001H:EDX", 0x8000_0001, 0, EDX,
         "11:syscall 20:nx 22:mmxext 25:fxsr-opt 26:pdpe1gb 27:rdtscp 29:lm 30:3dnowext 31:3dnow"),
    Word("CPUID.80000001H:ECX", 0x8000_0001, 0, ECX,
         "0:lahf-lm 1:cmp-legacy 2:svm 3:extapic 4:cr8legacy 5:abm 6:sse4a 7:misalignsse 8:3dnowprefetch 9:osvw 10:ibs "
         "11:xop 12:skinit 13:wdt 15:lwp 16:fma4 17:tce 19:nodeid-msr 21:tbm 22:topoext 23:perfctr-core 24:perfctr-nb"),
    Word("CPUID.80000007H:EDX", 0x8000_0007, 0, EDX, "8:invtsc"),
    Word("CPUID.80000008H:EBX", 0x8000_0008, 0, EBX,
         "0:clzero 2:xsaveerptr 9:wbnoinvd 12:ibpb 14:ibrs 15:amd-stibp 24:amd-ssbd 25:virt-ssbd 26:amd-no-ssb"),
    Word("CPUID.C0000001H:EDX", 0xC000_0001, 0, EDX,
         "2:xstore 3:xstore-en 6:xcrypt 7:xcrypt-en 8:ace2 9:ace2-en 10:phe 11:phe-en 12:pmm 13:pmm-en"),
    Word("CPUID.40000001H:EAX", 0x4000_0001, 0, EAX,
         "0:kvmclock 1:kvm-nopiodelay 2:kvm-mmu 3:kvmclock 4:kvm-asyncpf 5:kvm-steal-time 6:kvm-pv-eoi 7:kvm-pv-unhalt "
         "9:kvm-pv-tlb-flush 11:kvm-pv-ipi 12:kvm-poll-control 13:kvm-pv-sched-yield 14:kvm-asyncpf-int "
         "15:kvm-msi-ext-dest-id 24:kvmclock-stable-bit"),
    Word("CPUID.40000001H:EDX", 0x4000_0001, 0, EDX, "0:kvm-hint-dedicated"),
    Word("CPUID.8000000AH:EDX", 0x8000_000A, 0, EDX,
         "0:npt 1:lbrv 2:svm-lock 3:nrip-save 4:tsc-scale 5:vmcb-clean 6:flushbyasid 7:decodeassists 10:pause-filter "
         "12:pfthreshold 13:avic 15:v-vmsave-vmload 16:vgif 28:svme-addr-chk"),
    Word("CPUID.0DH:EAX", 0xD, 1, EAX, "0:xsaveopt 1:xsavec 2:xgetbv1 3:xsaves 4:xfd"),
    Word("CPUID.06H:EAX", 6, 0, EAX, "2:arat"),
    Word("MSR(10AH)", 0x10A, 0, MSR,
         "0:rdctl-no 1:ibrs-all 2:rsba 3:skip-l1dfl-vmentry 4:ssb-no 5:mds-no 6:pschange-mc-no 7:tsx-ctrl 8:taa-no"),
    Word("MSR(CFH)", 0xCF, 0, MSR, "5:split-lock-detect"),
)
# fmt: on

#: other spellings; any name may also be written with ``_`` for ``-``
ALIASES = {
    "sse3": "pni", "xd": "nx", "i64": "lm", "ffxsr": "fxsr-opt", "pclmuldq": "pclmulqdq", "sse4-1": "sse4.1",
    "sse4-2": "sse4.2",
}  # fmt: skip

#: names that QEMU's CPU objects have with ``_`` as well (others only take it)
UNDERSCORED = (
    "cmp_legacy", "ds_cpl", "fxsr_opt", "kvm_asyncpf", "kvm_asyncpf_int", "kvm_mmu", "kvm_nopiodelay",
    "kvm_poll_control", "kvm_pv_eoi", "kvm_pv_unhalt", "kvm_steal_time", "lahf_lm", "nodeid_msr", "nrip_save",
    "pause_filter", "perfctr_core", "perfctr_nb", "sse4_1", "sse4_2", "svm_lock", "tsc_adjust", "tsc_scale",
    "vmcb_clean",
)  # fmt: skip

#: a feature that is off switches these off
DEPENDENTS = {
    "svm": (
        "npt", "lbrv", "svm-lock", "nrip-save", "tsc-scale", "vmcb-clean", "flushbyasid", "decodeassists",
        "pause-filter", "pfthreshold", "avic", "v-vmsave-vmload", "vgif", "svme-addr-chk",
    ),
    "arch-capabilities": (
        "rdctl-no", "ibrs-all", "rsba", "skip-l1dfl-vmentry", "ssb-no", "mds-no", "pschange-mc-no", "tsx-ctrl",
        "taa-no",
    ),
    "core-capability": ("split-lock-detect",),
}  # fmt: skip

#: known to QEMU and not built here: refused when asked for, never shown to a guest
NOT_BUILT = frozenset(
    (
        "sgx", "sgxlc", "sgx1", "sgx2", "sgx-debug", "sgx-exinfo", "sgx-kss", "sgx-mode64", "sgx-provisionkey",
        "sgx-tokenkey", "intel-pt", "intel-pt-lip", "arch-lbr", "amx-bf16", "amx-tile", "amx-int8", "xfd", "lmce",
        "full-width-write",
    )
)  # fmt: skip

#: never switched on by ``host`` and ``max`` on their own
NO_AUTO_ENABLE = frozenset({"topoext", "kvm-hint-dedicated"})
#: left out of ``host`` and ``max`` while ``migratable`` is on
UNMIGRATABLE = frozenset({"invtsc"})


@cache
def bits_by_name() -> dict[str, list[tuple[int, int]]]:
    """name -> [(index into WORDS, mask)]."""
    found: dict[str, list[tuple[int, int]]] = {}
    for index, word in enumerate(WORDS):
        for item in word.names.split():
            bit, _, name = item.partition(":")
            found.setdefault(name, []).append((index, 1 << int(bit)))
    return found


@cache
def names_of(word: int) -> tuple[str, ...]:
    """The feature at each of the 32 bits of a word; an empty string where there is none."""
    found = [""] * 32
    for item in WORDS[word].names.split():
        bit, _, name = item.partition(":")
        found[int(bit)] = name
    return tuple(found)


def canonical(name: str) -> str:
    """The spelling used in WORDS."""
    name = name.replace("_", "-")
    return ALIASES.get(name, name)
