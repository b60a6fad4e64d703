# SPDX-License-Identifier: Apache-2.0
"""Facts of the named CPU models: what QEMU 7.2 shows for them (query-cpu-model-expansion and CPUID, as a black box).

Data only. The first version of a model lists its features; a later one lists what it adds (``+``) and drops (``-``).
``tests/integration/test_kvm_cpu_models.py`` compares every row with the installed QEMU.
"""

from __future__ import annotations

from typing import NamedTuple

INTEL = "GenuineIntel"
AMD = "AuthenticAMD"
HYGON = "HygonGenuine"


class CacheShape(NamedTuple):
    """One cache as CPUID 4 and 0x8000001D describe it. Sizes in bytes."""

    level: int
    kind: int  # 1 data, 2 instruction, 3 unified
    size_bytes: int
    ways: int
    self_initialising: bool
    flags: int  # EDX: 1 lower levels keep their lines on WBINVD, 2 inclusive, 4 complex indexing

    @property
    def sets(self) -> int:
        return self.size_bytes // (64 * self.ways)


def _caches(l1i: tuple[int, int], l3_mib: int) -> tuple[CacheShape, ...]:
    return (
        CacheShape(1, 1, 32 << 10, 8, True, 1),
        CacheShape(1, 2, l1i[0] << 10, l1i[1], True, 1),
        CacheShape(2, 3, 512 << 10, 8, False, 0),
        CacheShape(3, 3, l3_mib << 20, 16, True, 6),
    )


EPYC = _caches((64, 4), 8)
ROME = _caches((32, 8), 16)
MILAN = _caches((32, 8), 32)

#: the caches of every other model, as Intel's leaves show them and as AMD's do
LEGACY_INTEL = (
    CacheShape(1, 1, 32 << 10, 8, True, 1),
    CacheShape(1, 2, 32 << 10, 8, True, 1),
    CacheShape(2, 3, 4 << 20, 16, True, 1),
    CacheShape(3, 3, 16 << 20, 16, True, 6),
)
LEGACY_AMD = (
    CacheShape(1, 1, 64 << 10, 2, True, 1),
    CacheShape(1, 2, 64 << 10, 2, True, 1),
    CacheShape(2, 3, 512 << 10, 16, False, 0),
    CacheShape(3, 3, 16 << 20, 16, True, 6),
)


class ModelRow(NamedTuple):
    """One version of a model."""

    name: str
    vendor: str
    family: int
    model: int
    stepping: int
    level: int
    xlevel: int
    model_id: str
    caches: tuple[CacheShape, ...] | None  # None: the legacy ones
    features: str
    note: str = ""  # what -cpu help says behind the model id


#: further names -> model version
ALIASES = {
    "Broadwell-IBRS": "Broadwell-v3",
    "Broadwell-noTSX": "Broadwell-v2",
    "Broadwell-noTSX-IBRS": "Broadwell-v4",
    "Cascadelake-Server-noTSX": "Cascadelake-Server-v3",
    "EPYC-IBPB": "EPYC-v2",
    "Haswell-IBRS": "Haswell-v3",
    "Haswell-noTSX": "Haswell-v2",
    "Haswell-noTSX-IBRS": "Haswell-v4",
    "Icelake-Server-noTSX": "Icelake-Server-v2",
    "IvyBridge-IBRS": "IvyBridge-v2",
    "Nehalem-IBRS": "Nehalem-v2",
    "SandyBridge-IBRS": "SandyBridge-v2",
    "Skylake-Client-IBRS": "Skylake-Client-v2",
    "Skylake-Client-noTSX-IBRS": "Skylake-Client-v3",
    "Skylake-Server-IBRS": "Skylake-Server-v2",
    "Skylake-Server-noTSX-IBRS": "Skylake-Server-v3",
    "Westmere-IBRS": "Westmere-v2",
}

# fmt: off
ROWS: tuple[ModelRow, ...] = (
    ModelRow(
        "486-v1", INTEL, 4, 8, 0, 0x1, 0x0, "", None,
        "fpu pse vme",
    ),
    ModelRow(
        "athlon-v1", AMD, 6, 2, 3, 0x2, 0x80000008, "QEMU Virtual CPU version 2.5+", None,
        (
            "3dnow 3dnowext apic cmov cx8 de fpu fxsr mca mce mmx mmxext msr mtrr pae pat pge pse pse36 sep sse "
            "sse2 tsc vme"
        ),
    ),
    ModelRow(
        "Broadwell-v1", INTEL, 6, 61, 2, 0xd, 0x80000008, "Intel Core Processor (Broadwell)", None,
        (
            "3dnowprefetch abm adx aes apic arat avx avx2 bmi1 bmi2 clflush cmov cx16 cx8 de erms f16c fma fpu "
            "fsgsbase fxsr hle invpcid lahf-lm lm mca mce mmx movbe msr mtrr nx pae pat pcid pclmulqdq pge pni "
            "popcnt pse pse36 rdrand rdseed rdtscp rtm sep smap smep sse sse2 sse4.1 sse4.2 ssse3 syscall tsc "
            "tsc-deadline vme x2apic xsave xsaveopt"
        ),
    ),
    ModelRow(
        "Broadwell-v2", INTEL, 6, 61, 2, 0xd, 0x80000008, "Intel Core Processor (Broadwell, no TSX)", None,
        "-hle -rtm",
    ),
    ModelRow(
        "Broadwell-v3", INTEL, 6, 61, 2, 0xd, 0x80000008, "Intel Core Processor (Broadwell, IBRS)", None,
        "+hle +rtm +spec-ctrl",
    ),
    ModelRow(
        "Broadwell-v4", INTEL, 6, 61, 2, 0xd, 0x80000008, "Intel Core Processor (Broadwell, no TSX, IBRS)", None,
        "-hle -rtm",
    ),
    ModelRow(
        "Cascadelake-Server-v1", INTEL, 6, 85, 6, 0xd, 0x80000008, "Intel Xeon Processor (Cascadelake)", None,
        (
            "3dnowprefetch abm adx aes apic arat avx avx2 avx512bw avx512cd avx512dq avx512f avx512vl avx512vnni "
            "bmi1 bmi2 clflush clflushopt clwb cmov cx16 cx8 de erms f16c fma fpu fsgsbase fxsr hle invpcid "
            "lahf-lm lm mca mce mmx movbe msr mtrr nx pae pat pcid pclmulqdq pdpe1gb pge pku pni popcnt pse pse36 "
            "rdrand rdseed rdtscp rtm sep smap smep spec-ctrl ssbd sse sse2 sse4.1 sse4.2 ssse3 syscall tsc "
            "tsc-deadline vme x2apic xgetbv1 xsave xsavec xsaveopt"
        ),
    ),
    ModelRow(
        "Cascadelake-Server-v2", INTEL, 6, 85, 6, 0xd, 0x80000008, "Intel Xeon Processor (Cascadelake)", None,
        "+arch-capabilities +ibrs-all +mds-no +rdctl-no +skip-l1dfl-vmentry", note="[ARCH_CAPABILITIES]"
    ),
    ModelRow(
        "Cascadelake-Server-v3", INTEL, 6, 85, 6, 0xd, 0x80000008, "Intel Xeon Processor (Cascadelake)", None,
        "-hle -rtm", note="[ARCH_CAPABILITIES, no TSX]"
    ),
    ModelRow(
        "Cascadelake-Server-v4", INTEL, 6, 85, 6, 0xd, 0x80000008, "Intel Xeon Processor (Cascadelake)", None,
        "", note="[ARCH_CAPABILITIES, EPT switching, no TSX]"
    ),
    ModelRow(
        "Cascadelake-Server-v5", INTEL, 6, 85, 6, 0xd, 0x80000008, "Intel Xeon Processor (Cascadelake)", None,
        "+xsaves", note="[ARCH_CAPABILITIES, EPT switching, XSAVES, no TSX]"
    ),
    ModelRow(
        "Conroe-v1", INTEL, 6, 15, 3, 0xa, 0x80000008, "Intel Celeron_4x0 (Conroe/Merom Class Core 2)", None,
        (
            "apic clflush cmov cx8 de fpu fxsr lahf-lm lm mca mce mmx msr mtrr nx pae pat pge pni pse pse36 sep "
            "sse sse2 ssse3 syscall tsc vme"
        ),
    ),
    ModelRow(
        "Cooperlake-v1", INTEL, 6, 85, 10, 0xd, 0x80000008, "Intel Xeon Processor (Cooperlake)", None,
        (
            "3dnowprefetch abm adx aes apic arat arch-capabilities avx avx2 avx512-bf16 avx512bw avx512cd "
            "avx512dq avx512f avx512vl avx512vnni bmi1 bmi2 clflush clflushopt clwb cmov cx16 cx8 de erms f16c "
            "fma fpu fsgsbase fxsr hle ibrs-all invpcid lahf-lm lm mca mce mds-no mmx movbe msr mtrr nx pae pat "
            "pcid pclmulqdq pdpe1gb pge pku pni popcnt pschange-mc-no pse pse36 rdctl-no rdrand rdseed rdtscp rtm "
            "sep skip-l1dfl-vmentry smap smep spec-ctrl ssbd sse sse2 sse4.1 sse4.2 ssse3 stibp syscall taa-no "
            "tsc tsc-deadline vme x2apic xgetbv1 xsave xsavec xsaveopt"
        ),
    ),
    ModelRow(
        "Cooperlake-v2", INTEL, 6, 85, 10, 0xd, 0x80000008, "Intel Xeon Processor (Cooperlake)", None,
        "+xsaves", note="[XSAVES]"
    ),
    ModelRow(
        "core2duo-v1", INTEL, 6, 15, 11, 0xa, 0x80000008, "Intel(R) Core(TM)2 Duo CPU     T7700  @ 2.40GHz", None,
        (
            "acpi apic clflush cmov cx16 cx8 de fpu fxsr lahf-lm lm mca mce mmx monitor msr mtrr nx pae pat pge "
            "pni pse pse36 sep ss sse sse2 ssse3 syscall tsc vme"
        ),
    ),
    ModelRow(
        "coreduo-v1", INTEL, 6, 14, 8, 0xa, 0x80000008, "Genuine Intel(R) CPU           T2600  @ 2.16GHz", None,
        (
            "acpi apic clflush cmov cx8 de fpu fxsr mca mce mmx monitor msr mtrr nx pae pat pge pni pse sep ss "
            "sse sse2 tsc vme"
        ),
    ),
    ModelRow(
        "Denverton-v1", INTEL, 6, 95, 1, 0x15, 0x80000008, "Intel Atom Processor (Denverton)", None,
        (
            "3dnowprefetch aes apic arat arch-capabilities clflush clflushopt cmov cx16 cx8 de erms fpu fsgsbase "
            "fxsr lahf-lm lm mca mce mmx monitor movbe mpx msr mtrr nx pae pat pclmulqdq pdpe1gb pge pni popcnt "
            "pse pse36 rdctl-no rdrand rdseed rdtscp sep sha-ni skip-l1dfl-vmentry smap smep spec-ctrl ssbd sse "
            "sse2 sse4.1 sse4.2 ssse3 syscall tsc tsc-deadline vme x2apic xgetbv1 xsave xsavec xsaveopt"
        ),
    ),
    ModelRow(
        "Denverton-v2", INTEL, 6, 95, 1, 0x15, 0x80000008, "Intel Atom Processor (Denverton)", None,
        "-monitor -mpx", note="[no MPX, no MONITOR]"
    ),
    ModelRow(
        "Denverton-v3", INTEL, 6, 95, 1, 0x15, 0x80000008, "Intel Atom Processor (Denverton)", None,
        "+xsaves", note="[XSAVES, no MPX, no MONITOR]"
    ),
    ModelRow(
        "Dhyana-v1", HYGON, 24, 0, 1, 0xd, 0x8000001e, "Hygon Dhyana Processor", EPYC,
        (
            "3dnowprefetch abm adx apic arat avx avx2 bmi1 bmi2 clflush clflushopt cmov cr8legacy cx16 cx8 de "
            "f16c fma fpu fsgsbase fxsr fxsr-opt ibpb lahf-lm lm mca mce misalignsse mmx mmxext monitor movbe msr "
            "mtrr npt nrip-save nx osvw pae pat pdpe1gb pge pni popcnt pse pse36 rdrand rdseed rdtscp sep smap "
            "smep sse sse2 sse4.1 sse4.2 sse4a ssse3 svm syscall topoext tsc vme xgetbv1 xsave xsavec xsaveopt"
        ),
    ),
    ModelRow(
        "Dhyana-v2", HYGON, 24, 0, 1, 0xd, 0x8000001e, "Hygon Dhyana Processor", EPYC,
        "+xsaves", note="[XSAVES]"
    ),
    ModelRow(
        "EPYC-v1", AMD, 23, 1, 2, 0xd, 0x8000001e, "AMD EPYC Processor", EPYC,
        (
            "3dnowprefetch abm adx aes apic arat avx avx2 bmi1 bmi2 clflush clflushopt cmov cr8legacy cx16 cx8 de "
            "f16c fma fpu fsgsbase fxsr fxsr-opt lahf-lm lm mca mce misalignsse mmx mmxext monitor movbe msr mtrr "
            "npt nrip-save nx osvw pae pat pclmulqdq pdpe1gb pge pni popcnt pse pse36 rdrand rdseed rdtscp sep "
            "sha-ni smap smep sse sse2 sse4.1 sse4.2 sse4a ssse3 svm syscall topoext tsc vme xgetbv1 xsave xsavec "
            "xsaveopt"
        ),
    ),
    ModelRow(
        "EPYC-v2", AMD, 23, 1, 2, 0xd, 0x8000001e, "AMD EPYC Processor (with IBPB)", EPYC,
        "+ibpb",
    ),
    ModelRow(
        "EPYC-v3", AMD, 23, 1, 2, 0xd, 0x8000001e, "AMD EPYC Processor", EPYC,
        "+clzero +perfctr-core +xsaveerptr +xsaves",
    ),
    ModelRow(
        "EPYC-Milan-v1", AMD, 25, 1, 1, 0xd, 0x8000001e, "AMD EPYC-Milan Processor", MILAN,
        (
            "3dnowprefetch abm adx aes amd-ssbd amd-stibp apic arat avx avx2 bmi1 bmi2 clflush clflushopt clwb "
            "clzero cmov cr8legacy cx16 cx8 de erms f16c fma fpu fsgsbase fsrm fxsr fxsr-opt ibpb ibrs invpcid "
            "lahf-lm lm mca mce misalignsse mmx mmxext monitor movbe msr mtrr npt nrip-save nx osvw pae pat pcid "
            "pclmulqdq pdpe1gb perfctr-core pge pku pni popcnt pse pse36 rdpid rdrand rdseed rdtscp sep sha-ni "
            "smap smep sse sse2 sse4.1 sse4.2 sse4a ssse3 svm svme-addr-chk syscall topoext tsc umip vme wbnoinvd "
            "xgetbv1 xsave xsavec xsaveerptr xsaveopt xsaves"
        ),
    ),
    ModelRow(
        "EPYC-Rome-v1", AMD, 23, 49, 0, 0xd, 0x8000001e, "AMD EPYC-Rome Processor", ROME,
        (
            "3dnowprefetch abm adx aes amd-stibp apic arat avx avx2 bmi1 bmi2 clflush clflushopt clwb clzero cmov "
            "cr8legacy cx16 cx8 de f16c fma fpu fsgsbase fxsr fxsr-opt ibpb lahf-lm lm mca mce misalignsse mmx "
            "mmxext monitor movbe msr mtrr npt nrip-save nx osvw pae pat pclmulqdq pdpe1gb perfctr-core pge pni "
            "popcnt pse pse36 rdpid rdrand rdseed rdtscp sep sha-ni smap smep sse sse2 sse4.1 sse4.2 sse4a ssse3 "
            "svm syscall topoext tsc umip vme wbnoinvd xgetbv1 xsave xsavec xsaveerptr xsaveopt xsaves"
        ),
    ),
    ModelRow(
        "EPYC-Rome-v2", AMD, 23, 49, 0, 0xd, 0x8000001e, "AMD EPYC-Rome Processor", ROME,
        "+amd-ssbd +ibrs",
    ),
    ModelRow(
        "Haswell-v1", INTEL, 6, 60, 4, 0xd, 0x80000008, "Intel Core Processor (Haswell)", None,
        (
            "abm aes apic arat avx avx2 bmi1 bmi2 clflush cmov cx16 cx8 de erms f16c fma fpu fsgsbase fxsr hle "
            "invpcid lahf-lm lm mca mce mmx movbe msr mtrr nx pae pat pcid pclmulqdq pge pni popcnt pse pse36 "
            "rdrand rdtscp rtm sep smep sse sse2 sse4.1 sse4.2 ssse3 syscall tsc tsc-deadline vme x2apic xsave "
            "xsaveopt"
        ),
    ),
    ModelRow(
        "Haswell-v2", INTEL, 6, 60, 1, 0xd, 0x80000008, "Intel Core Processor (Haswell, no TSX)", None,
        "-hle -rtm",
    ),
    ModelRow(
        "Haswell-v3", INTEL, 6, 60, 4, 0xd, 0x80000008, "Intel Core Processor (Haswell, IBRS)", None,
        "+hle +rtm +spec-ctrl",
    ),
    ModelRow(
        "Haswell-v4", INTEL, 6, 60, 1, 0xd, 0x80000008, "Intel Core Processor (Haswell, no TSX, IBRS)", None,
        "-hle -rtm",
    ),
    ModelRow(
        "Icelake-Server-v1", INTEL, 6, 134, 0, 0xd, 0x80000008, "Intel Xeon Processor (Icelake)", None,
        (
            "3dnowprefetch abm adx aes apic arat avx avx2 avx512-vpopcntdq avx512bitalg avx512bw avx512cd "
            "avx512dq avx512f avx512vbmi avx512vbmi2 avx512vl avx512vnni bmi1 bmi2 clflush clflushopt clwb cmov "
            "cx16 cx8 de erms f16c fma fpu fsgsbase fxsr gfni hle invpcid la57 lahf-lm lm mca mce mmx movbe msr "
            "mtrr nx pae pat pcid pclmulqdq pdpe1gb pge pku pni popcnt pse pse36 rdrand rdseed rdtscp rtm sep "
            "smap smep spec-ctrl ssbd sse sse2 sse4.1 sse4.2 ssse3 syscall tsc tsc-deadline umip vaes vme "
            "vpclmulqdq wbnoinvd x2apic xgetbv1 xsave xsavec xsaveopt"
        ),
    ),
    ModelRow(
        "Icelake-Server-v2", INTEL, 6, 134, 0, 0xd, 0x80000008, "Intel Xeon Processor (Icelake)", None,
        "-hle -rtm", note="[no TSX]"
    ),
    ModelRow(
        "Icelake-Server-v3", INTEL, 6, 134, 0, 0xd, 0x80000008, "Intel Xeon Processor (Icelake)", None,
        "+arch-capabilities +ibrs-all +mds-no +pschange-mc-no +rdctl-no +skip-l1dfl-vmentry +taa-no",
    ),
    ModelRow(
        "Icelake-Server-v4", INTEL, 6, 106, 0, 0xd, 0x80000008, "Intel Xeon Processor (Icelake)", None,
        "+avx512ifma +fsrm +rdpid +sha-ni",
    ),
    ModelRow(
        "Icelake-Server-v5", INTEL, 6, 106, 0, 0xd, 0x80000008, "Intel Xeon Processor (Icelake)", None,
        "+xsaves", note="[XSAVES]"
    ),
    ModelRow(
        "Icelake-Server-v6", INTEL, 6, 106, 0, 0xd, 0x80000008, "Intel Xeon Processor (Icelake)", None,
        "", note="[5-level EPT]"
    ),
    ModelRow(
        "IvyBridge-v1", INTEL, 6, 58, 9, 0xd, 0x80000008, "Intel Xeon E3-12xx v2 (Ivy Bridge)", None,
        (
            "aes apic arat avx clflush cmov cx16 cx8 de erms f16c fpu fsgsbase fxsr lahf-lm lm mca mce mmx msr "
            "mtrr nx pae pat pclmulqdq pge pni popcnt pse pse36 rdrand rdtscp sep smep sse sse2 sse4.1 sse4.2 "
            "ssse3 syscall tsc tsc-deadline vme x2apic xsave xsaveopt"
        ),
    ),
    ModelRow(
        "IvyBridge-v2", INTEL, 6, 58, 9, 0xd, 0x80000008, "Intel Xeon E3-12xx v2 (Ivy Bridge, IBRS)", None,
        "+spec-ctrl",
    ),
    ModelRow(
        "KnightsMill-v1", INTEL, 6, 133, 0, 0xd, 0x80000008, "Intel Xeon Phi Processor (Knights Mill)", None,
        (
            "3dnowprefetch abm adx aes apic arat avx avx2 avx512-4fmaps avx512-4vnniw avx512-vpopcntdq avx512cd "
            "avx512er avx512f avx512pf bmi1 bmi2 clflush cmov cx16 cx8 de erms f16c fma fpu fsgsbase fxsr lahf-lm "
            "lm mca mce mmx movbe msr mtrr nx pae pat pclmulqdq pdpe1gb pge pni popcnt pse pse36 rdrand rdseed "
            "rdtscp sep smep ss sse sse2 sse4.1 sse4.2 ssse3 syscall tsc tsc-deadline vme x2apic xsave xsaveopt"
        ),
    ),
    ModelRow(
        "kvm32-v1", INTEL, 15, 6, 1, 0x5, 0x80000008, "Common 32-bit KVM processor", None,
        (
            "apic clflush cmov cx8 de fpu fxsr mca mce mmx msr mtrr pae pat pge pni pse pse36 sep sse sse2 tsc "
            "vme"
        ),
    ),
    ModelRow(
        "kvm64-v1", INTEL, 15, 6, 1, 0xd, 0x80000008, "Common KVM processor", None,
        (
            "apic clflush cmov cx16 cx8 de fpu fxsr lm mca mce mmx msr mtrr nx pae pat pge pni pse pse36 sep sse "
            "sse2 syscall tsc vme"
        ),
    ),
    ModelRow(
        "n270-v1", INTEL, 6, 28, 2, 0xa, 0x80000008, "Intel(R) Atom(TM) CPU N270   @ 1.60GHz", None,
        (
            "acpi apic clflush cmov cx8 de fpu fxsr lahf-lm mca mce mmx monitor movbe msr mtrr nx pae pat pge pni "
            "pse sep ss sse sse2 ssse3 tsc vme"
        ),
    ),
    ModelRow(
        "Nehalem-v1", INTEL, 6, 26, 3, 0xb, 0x80000008, "Intel Core i7 9xx (Nehalem Class Core i7)", None,
        (
            "apic clflush cmov cx16 cx8 de fpu fxsr lahf-lm lm mca mce mmx msr mtrr nx pae pat pge pni popcnt pse "
            "pse36 sep sse sse2 sse4.1 sse4.2 ssse3 syscall tsc vme"
        ),
    ),
    ModelRow(
        "Nehalem-v2", INTEL, 6, 26, 3, 0xb, 0x80000008, "Intel Core i7 9xx (Nehalem Core i7, IBRS update)", None,
        "+spec-ctrl",
    ),
    ModelRow(
        "Opteron_G1-v1", AMD, 15, 6, 1, 0x5, 0x80000008, "AMD Opteron 240 (Gen 1 Class Opteron)", None,
        (
            "apic clflush cmov cx8 de fpu fxsr lm mca mce mmx msr mtrr nx pae pat pge pni pse pse36 sep sse sse2 "
            "syscall tsc vme"
        ),
    ),
    ModelRow(
        "Opteron_G2-v1", AMD, 15, 6, 1, 0x5, 0x80000008, "AMD Opteron 22xx (Gen 2 Class Opteron)", None,
        (
            "apic clflush cmov cx16 cx8 de fpu fxsr lahf-lm lm mca mce mmx msr mtrr nx pae pat pge pni pse pse36 "
            "sep sse sse2 svm syscall tsc vme"
        ),
    ),
    ModelRow(
        "Opteron_G3-v1", AMD, 16, 2, 3, 0x5, 0x80000008, "AMD Opteron 23xx (Gen 3 Class Opteron)", None,
        (
            "abm apic clflush cmov cx16 cx8 de fpu fxsr lahf-lm lm mca mce misalignsse mmx monitor msr mtrr nx "
            "pae pat pge pni popcnt pse pse36 rdtscp sep sse sse2 sse4a svm syscall tsc vme"
        ),
    ),
    ModelRow(
        "Opteron_G4-v1", AMD, 21, 1, 2, 0xd, 0x8000001a, "AMD Opteron 62xx class CPU", None,
        (
            "3dnowprefetch abm aes apic avx clflush cmov cx16 cx8 de fma4 fpu fxsr lahf-lm lm mca mce misalignsse "
            "mmx msr mtrr npt nrip-save nx pae pat pclmulqdq pdpe1gb pge pni popcnt pse pse36 rdtscp sep sse sse2 "
            "sse4.1 sse4.2 sse4a ssse3 svm syscall tsc vme xop xsave"
        ),
    ),
    ModelRow(
        "Opteron_G5-v1", AMD, 21, 2, 0, 0xd, 0x8000001a, "AMD Opteron 63xx class CPU", None,
        (
            "3dnowprefetch abm aes apic avx clflush cmov cx16 cx8 de f16c fma fma4 fpu fxsr lahf-lm lm mca mce "
            "misalignsse mmx msr mtrr npt nrip-save nx pae pat pclmulqdq pdpe1gb pge pni popcnt pse pse36 rdtscp "
            "sep sse sse2 sse4.1 sse4.2 sse4a ssse3 svm syscall tbm tsc vme xop xsave"
        ),
    ),
    ModelRow(
        "Penryn-v1", INTEL, 6, 23, 3, 0xa, 0x80000008, "Intel Core 2 Duo P9xxx (Penryn Class Core 2)", None,
        (
            "apic clflush cmov cx16 cx8 de fpu fxsr lahf-lm lm mca mce mmx msr mtrr nx pae pat pge pni pse pse36 "
            "sep sse sse2 sse4.1 ssse3 syscall tsc vme"
        ),
    ),
    ModelRow(
        "pentium-v1", INTEL, 5, 4, 3, 0x1, 0x0, "", None,
        "apic cx8 de fpu mce mmx msr pse tsc vme",
    ),
    ModelRow(
        "pentium2-v1", INTEL, 6, 5, 2, 0x2, 0x0, "", None,
        "apic cmov cx8 de fpu fxsr mca mce mmx msr mtrr pae pat pge pse pse36 sep tsc vme",
    ),
    ModelRow(
        "pentium3-v1", INTEL, 6, 7, 3, 0x3, 0x0, "", None,
        "apic cmov cx8 de fpu fxsr mca mce mmx msr mtrr pae pat pge pse pse36 sep sse tsc vme",
    ),
    ModelRow(
        "phenom-v1", AMD, 16, 2, 3, 0x5, 0x8000001a, "AMD Phenom(tm) 9550 Quad-Core Processor", None,
        (
            "3dnow 3dnowext abm apic clflush cmov cx16 cx8 de fpu fxsr fxsr-opt lahf-lm lm mca mce mmx mmxext "
            "monitor msr mtrr npt nx pae pat pdpe1gb pge pni popcnt pse pse36 rdtscp sep sse sse2 sse4a svm "
            "syscall tsc vme"
        ),
    ),
    ModelRow(
        "qemu32-v1", INTEL, 6, 6, 3, 0x4, 0x80000004, "QEMU Virtual CPU version 2.5+", None,
        "apic cmov cx8 de fpu fxsr mce mmx msr pae pat pge pni pse sep sse sse2 tsc",
    ),
    ModelRow(
        "qemu64-v1", AMD, 15, 107, 1, 0xd, 0x8000000a, "QEMU Virtual CPU version 2.5+", None,
        (
            "apic clflush cmov cx16 cx8 de fpu fxsr lahf-lm lm mca mce mmx msr mtrr nx pae pat pge pni pse pse36 "
            "sep sse sse2 svm syscall tsc"
        ),
    ),
    ModelRow(
        "SandyBridge-v1", INTEL, 6, 42, 1, 0xd, 0x80000008, "Intel Xeon E312xx (Sandy Bridge)", None,
        (
            "aes apic arat avx clflush cmov cx16 cx8 de fpu fxsr lahf-lm lm mca mce mmx msr mtrr nx pae pat "
            "pclmulqdq pge pni popcnt pse pse36 rdtscp sep sse sse2 sse4.1 sse4.2 ssse3 syscall tsc tsc-deadline "
            "vme x2apic xsave xsaveopt"
        ),
    ),
    ModelRow(
        "SandyBridge-v2", INTEL, 6, 42, 1, 0xd, 0x80000008, "Intel Xeon E312xx (Sandy Bridge, IBRS update)", None,
        "+spec-ctrl",
    ),
    ModelRow(
        "Skylake-Client-v1", INTEL, 6, 94, 3, 0xd, 0x80000008, "Intel Core Processor (Skylake)", None,
        (
            "3dnowprefetch abm adx aes apic arat avx avx2 bmi1 bmi2 clflush cmov cx16 cx8 de erms f16c fma fpu "
            "fsgsbase fxsr hle invpcid lahf-lm lm mca mce mmx movbe msr mtrr nx pae pat pcid pclmulqdq pge pni "
            "popcnt pse pse36 rdrand rdseed rdtscp rtm sep smap smep sse sse2 sse4.1 sse4.2 ssse3 syscall tsc "
            "tsc-deadline vme x2apic xgetbv1 xsave xsavec xsaveopt"
        ),
    ),
    ModelRow(
        "Skylake-Client-v2", INTEL, 6, 94, 3, 0xd, 0x80000008, "Intel Core Processor (Skylake, IBRS)", None,
        "+spec-ctrl",
    ),
    ModelRow(
        "Skylake-Client-v3", INTEL, 6, 94, 3, 0xd, 0x80000008, "Intel Core Processor (Skylake, IBRS, no TSX)", None,
        "-hle -rtm",
    ),
    ModelRow(
        "Skylake-Client-v4", INTEL, 6, 94, 3, 0xd, 0x80000008, "Intel Core Processor (Skylake, IBRS, no TSX)", None,
        "+xsaves", note="[IBRS, XSAVES, no TSX]"
    ),
    ModelRow(
        "Skylake-Server-v1", INTEL, 6, 85, 4, 0xd, 0x80000008, "Intel Xeon Processor (Skylake)", None,
        (
            "3dnowprefetch abm adx aes apic arat avx avx2 avx512bw avx512cd avx512dq avx512f avx512vl bmi1 bmi2 "
            "clflush clflushopt clwb cmov cx16 cx8 de erms f16c fma fpu fsgsbase fxsr hle invpcid lahf-lm lm mca "
            "mce mmx movbe msr mtrr nx pae pat pcid pclmulqdq pdpe1gb pge pku pni popcnt pse pse36 rdrand rdseed "
            "rdtscp rtm sep smap smep sse sse2 sse4.1 sse4.2 ssse3 syscall tsc tsc-deadline vme x2apic xgetbv1 "
            "xsave xsavec xsaveopt"
        ),
    ),
    ModelRow(
        "Skylake-Server-v2", INTEL, 6, 85, 4, 0xd, 0x80000008, "Intel Xeon Processor (Skylake, IBRS)", None,
        "+spec-ctrl -clflushopt",
    ),
    ModelRow(
        "Skylake-Server-v3", INTEL, 6, 85, 4, 0xd, 0x80000008, "Intel Xeon Processor (Skylake, IBRS, no TSX)", None,
        "-hle -rtm",
    ),
    ModelRow(
        "Skylake-Server-v4", INTEL, 6, 85, 4, 0xd, 0x80000008, "Intel Xeon Processor (Skylake, IBRS, no TSX)", None,
        "", note="[IBRS, EPT switching, no TSX]"
    ),
    ModelRow(
        "Skylake-Server-v5", INTEL, 6, 85, 4, 0xd, 0x80000008, "Intel Xeon Processor (Skylake, IBRS, no TSX)", None,
        "+xsaves", note="[IBRS, XSAVES, EPT switching, no TSX]"
    ),
    ModelRow(
        "Snowridge-v1", INTEL, 6, 134, 1, 0x1b, 0x80000008, "Intel Atom Processor (SnowRidge)", None,
        (
            "3dnowprefetch aes apic arat arch-capabilities cldemote clflush clflushopt clwb cmov core-capability "
            "cx16 cx8 de erms fpu fsgsbase fxsr gfni lahf-lm lm mca mce mmx monitor movbe movdir64b movdiri mpx "
            "msr mtrr nx pae pat pclmulqdq pdpe1gb pge pni popcnt pse pse36 rdrand rdseed rdtscp sep sha-ni smap "
            "smep spec-ctrl split-lock-detect ssbd sse sse2 sse4.1 sse4.2 ssse3 syscall tsc tsc-deadline umip vme "
            "x2apic xgetbv1 xsave xsavec xsaveopt"
        ),
    ),
    ModelRow(
        "Snowridge-v2", INTEL, 6, 134, 1, 0x1b, 0x80000008, "Intel Atom Processor (Snowridge, no MPX)", None,
        "-mpx",
    ),
    ModelRow(
        "Snowridge-v3", INTEL, 6, 134, 1, 0x1b, 0x80000008, "Intel Atom Processor (Snowridge, no MPX)", None,
        "+xsaves", note="[XSAVES, no MPX]"
    ),
    ModelRow(
        "Snowridge-v4", INTEL, 6, 134, 1, 0x1b, 0x80000008, "Intel Atom Processor (Snowridge, no MPX)", None,
        "-core-capability -split-lock-detect", note="[no split lock detect, no core-capability]"
    ),
    ModelRow(
        "Westmere-v1", INTEL, 6, 44, 1, 0xb, 0x80000008, "Westmere E56xx/L56xx/X56xx (Nehalem-C)", None,
        (
            "aes apic arat clflush cmov cx16 cx8 de fpu fxsr lahf-lm lm mca mce mmx msr mtrr nx pae pat pclmulqdq "
            "pge pni popcnt pse pse36 sep sse sse2 sse4.1 sse4.2 ssse3 syscall tsc vme"
        ),
    ),
    ModelRow(
        "Westmere-v2", INTEL, 6, 44, 1, 0xb, 0x80000008, "Westmere E56xx/L56xx/X56xx (IBRS update)", None,
        "+spec-ctrl",
    ),
)
# fmt: on
