# SPDX-License-Identifier: Apache-2.0
"""CPUID leaves of one vCPU from a resolved CPU model (Intel SDM vol. 2A CPUID, AMD APM vol. 3 appendix E.3-E.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.kvm.cpu_features import WORDS
from vmmd.kvm.cpu_models import AMD, LEGACY_AMD, LEGACY_INTEL, CacheShape
from vmmd.kvm.cpuid import XSAVE_COMPONENTS
from vmmd.kvm.cpuid_entry import CpuidEntry
from vmmd.kvm.host_cpu import AMD_ALIASES

if TYPE_CHECKING:
    from vmmd.kvm.cpuid import CpuConfig

Registers = tuple[int, int, int, int]

_HT = 1 << 28
_CMP_LEGACY = 1 << 1
_XSAVE_BASE_BYTES = 576


#: CPUID 2 descriptors (SDM vol. 2A table 3-12) by level, kind, size in KiB and ways; 0xFF: ask leaf 4
_DESCRIPTORS = {(1, 1, 32, 8): 0x2C, (1, 2, 32, 8): 0x30, (2, 3, 512, 8): 0x80, (3, 3, 8192, 16): 0x4B,
                (3, 3, 16384, 16): 0x4D}  # fmt: skip
#: QEMU-COMPAT: leaf 2 of the legacy caches names an L2 of 2 MiB, leaf 4 one of 4 MiB
_LEGACY_L2_DESCRIPTOR = 0x7D


def leaves(config: CpuConfig, index: int, tsc_khz: int) -> tuple[CpuidEntry, ...]:
    """All leaves of vCPU ``index`` that are not empty, and leaf 7."""
    builder = _Leaves(config, index)
    builder.basic()
    builder.topology()
    builder.xsave()
    builder.extended()
    if config.flags["kvm"]:
        builder.paravirtual(tsc_khz)
    return tuple(builder.entries)


def _word_at(text: bytes, offset: int) -> int:
    return int.from_bytes(text[offset : offset + 4], "little")


class _Leaves:
    """Collects the leaves of one vCPU."""

    def __init__(self, config: CpuConfig, index: int) -> None:
        self.config = config
        self.apic_id = config.apic_id(index)
        self.ids = config.topology_ids(index)
        self.entries: list[CpuidEntry] = []
        self.siblings = config.topology.cores * config.topology.threads
        name = config.vendor.encode("latin-1").ljust(12, b"\0")
        self.vendor = (_word_at(name, 0), _word_at(name, 8), _word_at(name, 4))  # EBX, ECX, EDX
        self.hide_intel = config.vendor == AMD and config.flags["x-vendor-cpuid-only"]

    def word(self, leaf: int, register: int, subleaf: int = 0) -> int:
        """The feature word at a place."""
        for number, word in enumerate(WORDS):
            if (word.leaf, word.subleaf, word.register) == (leaf, subleaf, register):
                return self.config.words[number]
        return 0

    def add(self, leaf: int, registers: Registers, subleaf: int | None = None) -> None:
        """Add a leaf if it is inside the limits and says something.

        QEMU-COMPAT: leaf 7 is there also when it is empty. KVM's guests cannot tell on an ordinary host, but a software
        KVM may show features of its own through a leaf that it is given.
        """
        config = self.config
        limit = config.xlevel2 if leaf >= 0xC000_0000 else config.xlevel if leaf >= 0x8000_0000 else config.level
        if leaf > limit and not 0x4000_0000 <= leaf < 0x5000_0000:
            return
        if any(registers) or leaf == 7:
            self.entries.append(CpuidEntry(leaf, subleaf or 0, subleaf is not None, *registers))

    def basic(self) -> None:
        config = self.config
        self.add(0, (config.level, *self.vendor))
        ebx = self.apic_id << 24 & 0xFF00_0000 | 8 << 8
        edx = self.word(1, 3)
        if self.siblings > 1:
            ebx |= min(self.siblings, 255) << 16
            edx |= _HT
        self.add(1, (config.signature, ebx, self.word(1, 2), edx))
        if not self.hide_intel:
            caches = self._intel_caches()
            self._descriptors(caches)
            self._cache_leaves(4, caches, cores_field=True)
        self.add(5, (0, 0, 3, 0))  # MONITOR/MWAIT: extensions and interrupts as break events can be asked about
        self.add(6, (self.word(6, 0), 0, 0, 0))
        self.add(7, (config.numbers["level-func7"], self.word(7, 1), self.word(7, 2), self.word(7, 3)), 0)
        if config.numbers["level-func7"]:
            self.add(7, (self.word(7, 0, 1), 0, 0, 0), 1)
        if config.flags["pmu"]:
            self.add(0xA, config.host.registers(0xA))

    # --- caches ---
    def _intel_caches(self) -> tuple[CacheShape, ...]:
        config = self.config
        caches = config.caches if config.caches is not None and not config.flags["legacy-cache"] else LEGACY_INTEL
        return caches if config.flags["l3-cache"] else caches[:3]

    def _descriptors(self, caches: tuple[CacheShape, ...]) -> None:
        """Leaf 2."""
        found = [
            _DESCRIPTORS.get((cache.level, cache.kind, cache.size_bytes >> 10, cache.ways), 0xFF) for cache in caches
        ]
        if caches[2] == LEGACY_INTEL[2]:
            found[2] = _LEGACY_L2_DESCRIPTOR
        third = found[3] if len(found) > 3 else 0
        self.add(2, (1, 0, third, found[0] << 16 | found[1] << 8 | found[2]))

    def _amd_caches(self) -> tuple[CacheShape, ...]:
        config = self.config
        return config.caches if config.caches is not None and not config.flags["legacy-cache"] else LEGACY_AMD

    def _cache_leaves(self, leaf: int, caches: tuple[CacheShape, ...], *, cores_field: bool) -> None:
        topology = self.config.topology
        for number, cache in enumerate(caches):
            if cache.level == 3:
                sharing = 1 << topology.die_offset if cores_field else self.siblings
            elif cache.level == 2 or not cores_field:
                sharing = topology.threads
            else:
                sharing = 1
            eax = cache.kind | cache.level << 5 | (sharing - 1 & 0xFFF) << 14
            eax |= 1 << 8 if cache.self_initialising else 0
            if cores_field:
                eax |= (topology.cores - 1 & 0x3F) << 26
            self.add(leaf, (eax, cache.ways - 1 << 22 | 63, cache.sets - 1, cache.flags), number)

    # --- topology ---
    def topology(self) -> None:
        """Leaves 0xB and 0x1F: extended topology (SDM: level type 1 SMT, 2 core, 5 die)."""
        config, topology = self.config, self.config.topology
        if config.flags["cpuid-0xb"]:
            levels = [
                (topology.thread_width, topology.threads, 0x100),
                (topology.package_offset, self.siblings, 0x200),
                (0, 0, 0),
            ]
            for number, (width, count, kind) in enumerate(levels):
                self.add(0xB, (width, count, kind | number, self.apic_id), number)
        if topology.dies > 1 and config.vendor != AMD:
            levels = [
                (topology.thread_width, topology.threads, 0x100),
                (topology.die_offset, self.siblings, 0x200),
                (topology.package_offset, self.siblings * topology.dies, 0x500),
                (0, 0, 0),
            ]
            for number, (width, count, kind) in enumerate(levels):
                self.add(0x1F, (width, count, kind | number, self.apic_id), number)

    # --- extended state ---
    def xsave(self) -> None:
        """Leaf 0xD. Sizes and offsets are those of the host (SDM vol. 1 §13.2)."""
        config, host = self.config, self.config.host
        if not config.has("xsave"):
            return
        low, _, _, high = host.registers(0xD)
        possible = high << 32 | low
        mask = 3
        for component, feature in XSAVE_COMPONENTS:
            if config.has(feature) and possible >> component & 1:
                mask |= 1 << component
        standard = compacted = _XSAVE_BASE_BYTES
        parts: list[tuple[int, Registers]] = []
        for component in range(2, 63):
            if not mask >> component & 1:
                continue
            size, offset, flags, _ = host.registers(0xD, component)
            parts.append((component, (size, offset, flags, 0)))
            standard = max(standard, offset + size)
            compacted = ((compacted + 63) // 64 * 64 if flags & 2 else compacted) + size
        self.add(0xD, (mask & 0xFFFF_FFFF, standard, standard, mask >> 32), 0)
        self.add(0xD, (self.word(0xD, 0, 1), compacted if config.has("xsaves") else 0, 0, 0), 1)
        for component, registers in parts:
            self.add(0xD, registers, component)

    # --- 0x8000xxxx ---
    def extended(self) -> None:
        config = self.config
        self.add(0x8000_0000, (config.xlevel, *self.vendor))
        ecx, edx = self.word(0x8000_0001, 2), self.word(0x8000_0001, 3)
        if config.vendor == AMD:
            edx |= self.word(1, 3) & AMD_ALIASES
            ecx |= _CMP_LEGACY if self.siblings > 1 else 0
        self.add(0x8000_0001, (config.signature, 0, ecx, edx))
        model_id = config.model_id.encode("latin-1", "replace")[:48].ljust(48, b"\0")
        for number in range(3):
            at = 16 * number
            words = (_word_at(model_id, at), _word_at(model_id, at + 4), _word_at(model_id, at + 8))
            self.add(0x8000_0002 + number, (*words, _word_at(model_id, at + 12)))
        self._amd_cache_summary()
        self.add(0x8000_0007, (0, 0, 0, self.word(0x8000_0007, 3)))
        self._address_sizes()
        if config.has("svm"):
            self.add(0x8000_000A, (1, 0x10, 0, self.word(0x8000_000A, 3)))
        if config.xlevel >= 0x8000_001D:
            self._cache_leaves(0x8000_001D, self._amd_caches(), cores_field=False)
            socket, die, core, _ = self.ids
            topology = config.topology
            node = socket << topology.package_offset - topology.die_offset | die
            ebx = topology.threads - 1 << 8 | core
            self.add(0x8000_001E, (self.apic_id, ebx, topology.dies - 1 << 8 | node, 0))
        self.add(0xC000_0000, (config.xlevel2, 0, 0, 0))  # VIA's own
        self.add(0xC000_0001, (0, 0, 0, self.word(0xC000_0001, 3)))

    def _amd_cache_summary(self) -> None:
        """0x80000005 and 6: TLBs (all-associative, 255 entries; 512 entries in the second level) and caches."""
        caches = self._amd_caches()
        first = [cache.size_bytes >> 10 << 24 | cache.ways << 16 | 1 << 8 | 64 for cache in caches[:2]]
        self.add(0x8000_0005, (0x01FF_01FF, 0x01FF_01FF, first[0], first[1]))
        ways = {16: 8, 8: 6}
        second, third = caches[2], caches[3] if self.config.flags["l3-cache"] else None
        ecx = second.size_bytes >> 10 << 16 | ways[second.ways] << 12 | 1 << 8 | 64
        edx = third.size_bytes // (512 << 10) << 18 | ways[third.ways] << 12 | 1 << 8 | 64 if third else 0
        self.add(0x8000_0006, (0, 0x4200_4200, ecx, edx))

    def _address_sizes(self) -> None:
        config, topology = self.config, self.config.topology
        eax = config.phys_bits
        if config.has("lm"):
            eax |= (57 if config.has("la57") else 48) << 8
        ecx = topology.package_offset << 12 | self.siblings - 1 if self.siblings > 1 else 0
        self.add(0x8000_0008, (eax, self.word(0x8000_0008, 1), ecx, 0))

    # --- KVM's own ---
    def paravirtual(self, tsc_khz: int) -> None:
        """0x40000000: KVM's signature and features; 0x40000010: TSC and APIC frequency in kHz (VMware's leaf)."""
        config = self.config
        frequencies = bool(config.flags["vmware-cpuid-freq"] and tsc_khz and config.has("invtsc"))
        top = 0x4000_0010 if frequencies else 0x4000_0001
        self.add(0x4000_0000, (top, 0x4B4D_564B, 0x564B_4D56, 0x4D))
        self.add(0x4000_0001, (self.word(0x4000_0001, 0), 0, 0, self.word(0x4000_0001, 3)))
        if frequencies:
            self.add(0x4000_0010, (tsc_khz, 1_000_000, 0, 0))
