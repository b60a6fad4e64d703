# SPDX-License-Identifier: Apache-2.0
"""CPU models: from the text of ``-cpu`` to what CPUID shows on each vCPU.

``resolve`` parses ``IvyBridge,+ds,-x,feat=on,check``, takes away what the host's KVM does not support (with a warning
each) and returns a ``CpuConfig``; ``cpuid_leaves`` turns that into leaves. Used at start only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmmd.errors import UsageError, nearest
from vmmd.kvm import cpu_features as features
from vmmd.kvm.cpu_features import MSR, WORDS, bits_by_name
from vmmd.kvm.cpu_models import ALIASES, AMD, HYGON, INTEL, ROWS, CacheShape, ModelRow
from vmmd.kvm.msr import MSR_UCODE_REV

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmmd.kvm.cpuid_entry import CpuidEntry
    from vmmd.kvm.host_cpu import HostCpu

#: switched on for named models under KVM, and off
_KVM_ON = (
    "x2apic", "kvmclock", "kvm-nopiodelay", "kvm-asyncpf", "kvm-steal-time", "kvm-pv-eoi", "kvmclock-stable-bit",
    "hypervisor",
)  # fmt: skip
_KVM_OFF = ("acpi", "monitor", "svm")

BOOLEANS = {
    "check": True, "enforce": False, "migratable": True, "pmu": False, "kvm": True, "l3-cache": True,
    "legacy-cache": True, "cpuid-0xb": True, "full-cpuid-auto-level": True, "x-vendor-cpuid-only": True,
    "vmware-cpuid-freq": True, "fill-mtrr-mask": True, "host-phys-bits": False, "x-force-features": False,
}  # fmt: skip
NUMBERS = (
    "family", "model", "stepping", "level", "xlevel", "xlevel2", "min-level", "min-xlevel", "min-xlevel2", "phys-bits",
    "host-phys-bits-limit",
    "level-func7", "ucode-rev",
)  # fmt: skip
TEXTS = ("vendor", "model-id")
#: a property of QEMU that is not in this version -> its default, with which it may be given
_LATER = {"host-cache-info": "off", "tsc-frequency": "0", "tsc-freq": "0", "lmce": "off", "start-powered-off": "off",
          "kvm-pv-enforce-cpuid": "off", "kvm-no-smi-migration": "off", "x-migrate-smi-count": "on"}  # fmt: skip
_DEFAULT_PHYS_BITS = 40
#: index of the word with KVM's own features
_PARAVIRTUAL = next(i for i, word in enumerate(WORDS) if (word.leaf, word.register) == (0x4000_0001, 0))
#: models that are no versions of a row, and get nothing added for KVM
UNVERSIONED = frozenset({"base", "host", "max"})
#: XCR0 components and the feature that each needs; x87 and SSE are always there
XSAVE_COMPONENTS = ((2, "avx"), (3, "mpx"), (4, "mpx"), (5, "avx512f"), (6, "avx512f"), (7, "avx512f"), (9, "pku"))


class Topology(NamedTuple):
    """``-smp``: cores are per die."""

    sockets: int = 1
    dies: int = 1
    cores: int = 1
    threads: int = 1

    @property
    def thread_width(self) -> int:
        return (self.threads - 1).bit_length()

    @property
    def die_offset(self) -> int:
        """Bits of an APIC id below the die."""
        return self.thread_width + (self.cores - 1).bit_length()

    @property
    def package_offset(self) -> int:
        return self.die_offset + (self.dies - 1).bit_length()

    def ids(self, index: int) -> tuple[int, int, int, int]:
        """(socket, die, core, thread) of a vCPU."""
        rest, thread = divmod(index, self.threads)
        rest, core = divmod(rest, self.cores)
        socket, die = divmod(rest, self.dies)
        return socket, die, core, thread

    def apic_id(self, index: int) -> int:
        socket, die, core, thread = self.ids(index)
        return socket << self.package_offset | die << self.die_offset | core << self.thread_width | thread


class CpuConfig:
    """A resolved CPU model. ``words[i]`` are the features of ``WORDS[i]`` that the guest sees."""

    def __init__(self, model: str, host: HostCpu, topology: Topology) -> None:
        self.model = model
        self.host = host
        self.topology = topology
        self.words = [0] * len(WORDS)
        self.flags = dict(BOOLEANS)
        self.numbers: dict[str, int] = {}
        self.vendor = ""
        self.model_id = ""
        self.caches: tuple[CacheShape, ...] | None = None
        self.level = self.xlevel = self.xlevel2 = 0
        self.warnings: list[str] = []
        #: wanted features that the host does not have, in QEMU's order; one that needs several bits comes several times
        self.unavailable: list[str] = []
        #: the same as bits of WORDS
        self.filtered = [0] * len(WORDS)

    def has(self, name: str) -> bool:
        """True when the guest sees a feature."""
        return any(self.words[index] & mask for index, mask in bits_by_name()[name])

    @property
    def kvmclock(self) -> bool:
        return self.flags["kvm"] and self.has("kvmclock")

    @property
    def machine_check(self) -> bool:
        """True when the guest has machine-check banks."""
        return self.numbers["family"] >= 6 and self.has("mce") and self.has("mca")

    @property
    def signature(self) -> int:
        """CPUID.1:EAX."""
        family, model = self.numbers["family"], self.numbers["model"]
        base = family << 8 if family <= 0xF else 0xF00 | family - 0xF << 20
        return base | (model & 0xF) << 4 | model >> 4 << 16 | self.numbers["stepping"]

    @property
    def features_edx(self) -> int:
        """CPUID.1:EDX, for SMBIOS and MP tables."""
        return self.words[0]

    @property
    def phys_bits(self) -> int:
        """Width of guest-physical addresses."""
        if not self.has("lm"):
            return 36 if self.has("pse36") else 32
        return self.numbers["phys-bits"]

    def apic_id(self, index: int) -> int:
        return self.topology.apic_id(index)

    def topology_ids(self, index: int) -> tuple[int, int, int, int]:
        return self.topology.ids(index)

    def cpuid(self, index: int, tsc_khz: int = 0) -> tuple[CpuidEntry, ...]:
        """What CPUID shows on vCPU ``index``, whose TSC runs at ``tsc_khz`` (0: not known)."""
        from vmmd.kvm.cpuid_leaves import leaves

        return leaves(self, index, tsc_khz)

    def msrs(self) -> dict[int, int]:
        """MSRs that tell the guest what the CPU is like, to be set once."""
        values = {}
        for index, word in enumerate(WORDS):
            gate = {0x10A: "arch-capabilities", 0xCF: "core-capability"}.get(word.leaf, "")
            if word.register == MSR and self.has(gate):
                values[word.leaf] = self.words[index]
        amd = self.vendor in (AMD, HYGON)
        values[MSR_UCODE_REV] = self.numbers["ucode-rev"] or (0x0100_0065 if amd else 1 << 32)
        return values


def cpu_model_names() -> list[str]:
    """Every name that ``-cpu`` takes, as ``-cpu help`` sorts them."""
    names = [row.name for row in ROWS] + [row.name[:-3] for row in ROWS if row.name.endswith("-v1")] + list(ALIASES)
    return [*sorted(names, key=str.encode), "base", "host", "max"]


_words_cache: dict[str, tuple[ModelRow, tuple[int, ...]]] = {}


def _find_row(name: str) -> tuple[ModelRow, tuple[int, ...]] | None:
    """A model by any of its names: its row and its feature words."""
    version = ALIASES.get(name, name)
    found = _words_cache.get(version) or _words_cache.get(f"{version}-v1")
    if found is None:
        _load_family(version)
        found = _words_cache.get(version) or _words_cache.get(f"{version}-v1")
    return found


def _load_family(name: str) -> None:
    """Work out the feature words of every version of the model that ``name`` is, or is a version of."""
    stem = name.rpartition("-v")[0] if name[-1:].isdigit() and name[-3:-1] == "-v" else name
    words = [0] * len(WORDS)
    bits = bits_by_name()
    for row in ROWS:
        if row.name[:-3] != stem:
            continue
        for item in row.features.split():
            drop = item[0] == "-"
            for index, mask in bits[item.lstrip("+-") if item[0] in "+-" else item]:
                words[index] = words[index] & ~mask if drop else words[index] | mask
        _words_cache[row.name] = row, tuple(words)


def resolve(
    text: str, host: HostCpu, topology: Topology | None = None, machine_version: tuple[int, int] = (7, 2)
) -> CpuConfig:
    """The CPU of ``-cpu TEXT`` on this host. Raises UsageError. ``warnings`` of the result are for stderr."""
    name, _, rest = text.partition(",")
    wanted = _Wanted(CpuConfig(name, host, topology or Topology()), machine_version)
    wanted.apply_user(rest)
    wanted.expand()
    wanted.restrict()
    return wanted.config


def expand(
    name: str, properties: Iterable[tuple[str, str]], host: HostCpu, machine_version: tuple[int, int]
) -> CpuConfig:
    """What a model stands for: as ``resolve`` has it before it takes away what the host lacks. Raises UsageError."""
    wanted = _Wanted(CpuConfig(name, host, Topology()), machine_version)
    for key, value in properties:
        wanted.set_property(key, value, by_user=True)
    wanted.expand()
    return wanted.config


def lacking_features(name: str, host: HostCpu, machine_version: tuple[int, int]) -> list[str]:
    """What keeps a model from running on this host (``unavailable-features``)."""
    wanted = _Wanted(CpuConfig(name, host, Topology()), machine_version)
    wanted.expand()
    wanted.take_away()
    return wanted.config.unavailable


class _Wanted:
    """Builds a CpuConfig step by step."""

    def __init__(self, config: CpuConfig, machine_version: tuple[int, int]) -> None:
        """Begin with the model itself, as a machine version has it. Raises UsageError for a name that is none."""
        from vmmd.kvm.cpu_compat import properties

        self.config = config
        self.host = config.host
        self.by_user: set[str] = set()
        self.automatic = False  # host and max: everything that is supported
        self.fixed_levels: set[str] = set()
        self.load_model(config.model)
        for key, value in properties(config.model, machine_version).items():
            self.set_property(key, value)
        if config.model not in UNVERSIONED and self.host.is_kvm:
            for feature in _KVM_ON:
                self.set_feature(feature, feature != "x2apic" or self.host.has_kernel_apic)
            for feature in _KVM_OFF:
                self.set_feature(feature, False)
            config.vendor = self.host.vendor

    def load_model(self, name: str) -> None:
        config, host = self.config, self.host
        config.numbers = dict.fromkeys(NUMBERS, 0)
        if name == "base":
            return
        if name in ("host", "max"):
            if name == "host" and not host.is_kvm:
                raise UsageError("CPU model 'host' requires KVM")  # QEMU-COMPAT: the phrase
            self.automatic = True
            signature = host.signature
            family = signature >> 8 & 0xF
            config.numbers["family"] = family + (signature >> 20 & 0xFF) if family == 0xF else family
            config.numbers["model"] = signature >> 4 & 0xF | signature >> 12 & 0xF0
            config.numbers["stepping"] = signature & 0xF
            config.numbers |= {"min-level": host.level, "min-xlevel": host.xlevel}
            config.vendor, config.model_id = host.vendor, host.model_id
            config.flags["host-phys-bits"] = True
            config.flags["pmu"] = True
            return
        found = _find_row(name)
        if found is None:
            near = nearest(name, cpu_model_names())
            raise UsageError(
                f"unable to find CPU model '{name}'", f"did you mean '{near}'?" if near else "see -cpu help"
            )
        row, words = found
        config.numbers |= {"family": row.family, "model": row.model, "stepping": row.stepping}
        config.numbers |= {"min-level": row.level, "min-xlevel": row.xlevel}
        config.vendor, config.model_id, config.caches = row.vendor, row.model_id, row.caches
        config.flags["legacy-cache"] = row.caches is None
        config.words = list(words)

    def set_feature(self, name: str, on: bool) -> None:
        for index, mask in bits_by_name()[name]:
            if on:
                self.config.words[index] |= mask
            else:
                self.config.words[index] &= ~mask

    # --- the user's text ---
    def apply_user(self, text: str) -> None:
        """``key=value`` in order, then every ``+feature``, then every ``-feature``, as QEMU does."""
        plus: list[str] = []
        minus: list[str] = []
        ambiguous = False
        for item in text.split(",") if text else ():
            if item[:1] == "+":
                plus.append(item[1:])
            elif item[:1] == "-":
                minus.append(item[1:])
            elif item:
                key, _, value = item.partition("=")
                value = value or "on"
                ambiguous |= self._warn_of_signs(key, value, plus, minus)
                self.set_property(key, value, by_user=True)
        for names, value in ((plus, "on"), (minus, "off")):
            for name in names:
                self.set_property(name, value, by_user=True)
        if ambiguous:
            self.config.warnings.append("the signed form wins, whatever the order")

    def _warn_of_signs(self, key: str, value: str, plus: list[str], minus: list[str]) -> bool:
        """Warn when ``key=value`` comes after ``+key`` or ``-key``, and would win in a list read in order."""
        for sign, names in (("+", plus), ("-", minus)):
            if features.canonical(key) in map(features.canonical, names):
                # QEMU-COMPAT: the sentence
                self.config.warnings.append(
                    f'Ambiguous CPU model string. Don\'t mix both "{sign}{key}" and "{key}={value}"'
                )
                return True
        return False

    def set_property(self, key: str, value: str, *, by_user: bool = False) -> None:
        """One property by name. Raises UsageError."""
        name = features.canonical(key)
        config = self.config
        if name == "osxsave":
            # QEMU-COMPAT: a feature name up to QEMU 2.x, still in old command lines. The bit mirrors CR4.OSXSAVE and
            # is made by KVM at run time, whatever is asked for.
            self._boolean(key, value)
        elif name in bits_by_name():
            on = self._boolean(key, value)
            if on and name in features.NOT_BUILT:
                raise UsageError(f"-cpu {config.model}: feature '{key}' is not available in this version")
            self.set_feature(name, on)
            if by_user:
                self.by_user.add(name)
        elif name in config.flags:
            config.flags[name] = self._boolean(key, value)
        elif name in NUMBERS:
            self._set_number(name, value)
        elif name in TEXTS:
            self._set_text(name, value)
        else:
            self._refuse(key, name, value)

    def _refuse(self, key: str, name: str, value: str) -> None:
        model = self.config.model
        default = _LATER.get(name)
        if name.startswith(("hv-", "vmx-", "x-hv-")) or name in features.NOT_BUILT:
            default = "off"
        if default is None:
            near = nearest(name, [*bits_by_name(), *BOOLEANS, *NUMBERS, *TEXTS])
            # QEMU-COMPAT: the sentence
            raise UsageError(
                f"Property '{model}-x86_64-cpu.{key}' not found", f"did you mean '{near}'?" if near else None
            )
        if value != default:
            raise UsageError(f"-cpu {model}: {key}={value} is not available in this version")

    @staticmethod
    def _boolean(key: str, value: str) -> bool:
        if value in ("on", "yes", "true", "y"):
            return True
        if value in ("off", "no", "false", "n"):
            return False
        raise UsageError(f"Parameter '{key}' expects 'on' or 'off'", f"it was given '{value}'")

    def _set_number(self, name: str, value: str) -> None:
        try:
            number = int(value, 0)
        except ValueError:
            raise UsageError(f"Parameter '{name}' expects int64", f"it was given '{value}'") from None
        largest = {"family": 0xF + 0xFF, "model": 0xFF, "stepping": 0xF}.get(name, 0xFFFF_FFFF)
        if not 0 <= number <= largest:
            raise UsageError(f"Property .{name} doesn't take value {value} (minimum: 0, maximum: {largest})")
        self.config.numbers[name] = number
        if name in ("level", "xlevel", "xlevel2"):
            self.fixed_levels.add(name)

    def _set_text(self, name: str, value: str) -> None:
        if name == "model-id":
            self.config.model_id = value
        elif len(value) != 12 or not value.isascii():
            raise UsageError(f"Property '.vendor' doesn't take value '{value}'", "a vendor has 12 characters")
        else:
            self.config.vendor = value

    # --- conclusions ---
    def expand(self) -> None:
        """Everything that follows from what was asked for."""
        if self.automatic:
            self._enable_supported()
        self._dependencies()
        if not self.config.flags["kvm"]:
            self.config.words[_PARAVIRTUAL] = 0
        self._levels()

    def restrict(self) -> None:
        """Everything that follows from what the host has."""
        if not self.config.flags["x-force-features"]:
            self._filter()
        self._phys_bits()
        self._warn_topology()

    def _enable_supported(self) -> None:
        """``host`` and ``max``: all named features, or with migratable=off all bits; the user's choices stay."""
        migratable = self.config.flags["migratable"]
        skipped = features.NO_AUTO_ENABLE | self.by_user | (features.UNMIGRATABLE if migratable else frozenset())
        enabled = [0 if migratable else ~0] * len(WORDS)
        for name, places in bits_by_name().items():
            for index, mask in places:
                if name in skipped:
                    enabled[index] &= ~mask
                elif migratable:
                    enabled[index] |= mask
        for index, mask in enumerate(enabled):
            self.config.words[index] |= self.host.supported[index] & mask

    def _dependencies(self) -> None:
        config = self.config
        for parent, children in features.DEPENDENTS.items():
            if config.has(parent):
                continue
            for child in children:
                index, mask = bits_by_name()[child][0]
                if config.words[index] & mask:
                    config.words[index] &= ~mask
                    if child in self.by_user:
                        self._warn("This feature depends on other features that were not requested", index, child)

    def _warn(self, sentence: str, index: int, name: str) -> None:
        bit = next(mask for place, mask in bits_by_name()[name] if place == index).bit_length() - 1
        self.config.warnings.append(f"{sentence}: {WORDS[index].label}.{name} [bit {bit}]")

    def _levels(self) -> None:
        """Raise the highest leaf so that every wanted feature is inside (unless the user fixed it)."""
        config = self.config
        numbers = config.numbers
        if config.flags["full-cpuid-auto-level"]:
            self._raise_levels()
        config.level = numbers["level" if "level" in self.fixed_levels else "min-level"]
        config.xlevel = numbers["xlevel" if "xlevel" in self.fixed_levels else "min-xlevel"]
        config.xlevel2 = numbers["xlevel2" if "xlevel2" in self.fixed_levels else "min-xlevel2"]

    def _raise_levels(self) -> None:
        config = self.config
        numbers = config.numbers
        used = [word for index, word in enumerate(WORDS) if config.words[index] and word.register != MSR]
        level = max([numbers["min-level"], *(word.leaf for word in used if word.leaf < 0x4000_0000)])
        xlevel = max([numbers["min-xlevel"], *(word.leaf for word in used if 0x8000_0000 <= word.leaf < 0xC000_0000)])
        if config.has("svm"):
            xlevel = max(xlevel, 0x8000_000A)
        if config.topology.dies > 1 and config.vendor == INTEL:
            level = max(level, 0x1F)
        if any(word.leaf == 7 and word.subleaf for word in used):
            numbers["level-func7"] = max(numbers["level-func7"], 1)
        xlevel2 = max([numbers["min-xlevel2"], *(word.leaf for word in used if word.leaf >= 0xC000_0000)])
        numbers |= {"min-level": level, "min-xlevel": xlevel, "min-xlevel2": xlevel2}

    def _filter(self) -> None:
        """Take away what KVM does not support. Raises UsageError with ``enforce``."""
        config = self.config
        places = self.take_away()
        if config.flags["check"] or config.flags["enforce"]:
            config.warnings += [f"host doesn't support requested feature: {place}" for place in places]
        if places and config.flags["enforce"]:
            shown = "; ".join(config.warnings)
            raise UsageError("Host doesn't support requested features", shown)

    def take_away(self) -> list[str]:
        """Take away what KVM does not support; the places of the bits, for warnings."""
        config = self.config
        components = self._lacking_components()
        places: list[str] = []
        for index, word in enumerate(WORDS):
            if word.register == MSR and components:
                places += [f"CPUID.0DH:EAX [bit {bit}]" for bit, _ in components]
                config.unavailable += [name for _, name in components]
                components = []
            lacking = config.words[index] & ~self.host.supported[index]
            config.words[index] &= ~lacking
            config.filtered[index] = lacking
            while lacking:
                bit = (lacking & -lacking).bit_length() - 1
                lacking &= lacking - 1
                name = features.names_of(index)[bit]
                places.append(f"{word.label}.{name} [bit {bit}]")
                config.unavailable.append(name)
        return places

    def _lacking_components(self) -> list[tuple[int, str]]:
        """Bits of XCR0, with the feature that wants each, that the host does not have."""
        if not self.config.has("xsave"):
            return []
        possible = self.host.registers(0xD)[0]
        return [(bit, name) for bit, name in XSAVE_COMPONENTS if self.config.has(name) and not possible >> bit & 1]

    def _phys_bits(self) -> None:
        config, host = self.config, self.host
        bits = config.numbers["phys-bits"]
        if bits and not config.has("lm"):
            raise UsageError(f"-cpu {config.model}: phys-bits is not configurable without the feature lm")
        if bits and bits != host.phys_bits and host.is_kvm:
            config.warnings.append(f"Host physical bits ({host.phys_bits}) does not match phys-bits property ({bits})")
        if not bits and config.flags["host-phys-bits"]:
            limit = config.numbers["host-phys-bits-limit"]
            bits = min(host.phys_bits, limit) if limit else host.phys_bits
        bits = bits or _DEFAULT_PHYS_BITS
        if not 32 <= bits <= 52:
            raise UsageError(f"phys-bits should be between 32 and 52  (but is {bits})")
        config.numbers["phys-bits"] = bits

    def _warn_topology(self) -> None:
        config = self.config
        if config.topology.threads > 1 and config.vendor in (AMD, HYGON) and not config.has("topoext"):
            config.warnings.append(
                f"This family of AMD CPU doesn't support hyperthreading({config.topology.threads})\n"
                "Please configure -smp options properly or try enabling topoext feature."
            )
