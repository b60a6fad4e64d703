# SPDX-License-Identifier: Apache-2.0
"""CPU model texts, feature filtering and CPUID leaves on synthetic hosts (the real host: tests/integration)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmmd.errors import UsageError
from vmmd.kvm.cpu_features import ALIASES, DEPENDENTS, NOT_BUILT, WORDS, bits_by_name
from vmmd.kvm.cpu_models import ROWS
from vmmd.kvm.cpuid import CpuConfig, Topology, cpu_model_names, resolve
from vmmd.kvm.cpuid_entry import CpuidEntry
from vmmd.kvm.host_cpu import HostCpu

INTEL = (0x756E6547, 0x6C65746E, 0x49656E69)  # EBX, ECX, EDX
AMD = (0x68747541, 0x444D4163, 0x69746E65)
#: sizes and offsets of XSAVE components as every Intel server CPU has them (SDM vol. 1 §13.5)
COMPONENTS = {2: (256, 576), 5: (64, 1088), 6: (512, 1152), 7: (1024, 1664), 9: (8, 2688)}


def host(vendor: tuple[int, int, int] = INTEL, missing: tuple[str, ...] = (), *, xcr0: int = 0x2E7) -> HostCpu:
    """A host that has every feature but ``missing``."""
    values: dict[tuple[int, int], list[int]] = {}
    bits = bits_by_name()
    for name, places in bits.items():
        for index, mask in places:
            word = WORDS[index]
            registers = values.setdefault((word.leaf, word.subleaf), [0, 0, 0, 0])
            if word.register >= 0 and name not in missing:
                registers[word.register] |= mask
    ebx, ecx, edx = vendor
    values[(0, 0)] = [0x1F, ebx, ecx, edx]
    values[(1, 0)][0] = 0x000806F8
    values[(0x80000000, 0)] = [0x80000021, ebx, ecx, edx]
    values.setdefault((0x80000008, 0), [0, 0, 0, 0])[0] = 46
    values[(0xD, 0)] = [xcr0, 0, 0, 0]
    for component, (size, offset) in COMPONENTS.items():
        values[(0xD, component)] = [size, offset, 0, 0]
    entries = tuple(CpuidEntry(leaf, sub, True, *registers) for (leaf, sub), registers in values.items())
    return HostCpu(entries, {0x10A: 0x69, 0xCF: 0}, "Test CPU @ 1GHz")


def leaf(config: CpuConfig, function: int, subleaf: int = 0, index: int = 0) -> tuple[int, int, int, int]:
    for entry in config.cpuid(index):
        if (entry.function, entry.index) == (function, subleaf):
            return entry.eax, entry.ebx, entry.ecx, entry.edx
    return (0, 0, 0, 0)


def test_every_model_resolves_without_a_warning_on_a_host_that_has_everything() -> None:
    everything = host()
    for name in cpu_model_names():
        config = resolve(name, everything)
        missing = [text for text in config.warnings if "requested feature" in text]
        # what no KVM has: PMM, 3DNow! … are features here; mpx state and split-lock detection are not
        assert not [text for text in missing if "MSR(" not in text and "0DH:EAX [bit" not in text], name
        assert config.cpuid(0), name


def test_model_rows_name_known_features_only() -> None:
    known = bits_by_name()
    for row in ROWS:
        for item in row.features.split():
            assert item.lstrip("+-") in known, (row.name, item)


def test_aliases_and_dependents_lead_to_known_features() -> None:
    known = bits_by_name()
    assert set(ALIASES.values()) <= set(known)
    assert all(parent in known and set(children) <= set(known) for parent, children in DEPENDENTS.items())


def test_ivybridge_has_the_signature_and_vendor_of_the_host() -> None:
    config = resolve("IvyBridge", host(AMD))
    assert config.signature == 0x306A9
    assert leaf(config, 0)[1:] == AMD


def test_missing_features_are_warned_about_and_hidden() -> None:
    config = resolve("IvyBridge,+vmx,+ds_cpl", host(missing=("vmx", "aes")))
    assert config.warnings == [
        "host doesn't support requested feature: CPUID.01H:ECX.vmx [bit 5]",
        "host doesn't support requested feature: CPUID.01H:ECX.aes [bit 25]",
    ]
    ecx = leaf(config, 1)[2]
    assert not ecx & (1 << 5 | 1 << 25)
    assert ecx & 1 << 4  # ds-cpl


def test_check_off_hides_silently() -> None:
    config = resolve("IvyBridge,check=off", host(missing=("aes",)))
    assert config.warnings == []
    assert not config.has("aes")


def test_what_kvms_own_local_apic_does_is_not_offered_without_it() -> None:
    for text in ("qemu64", "max"):
        config = resolve(text, host().without_kernel_apic(), Topology())
        assert not any(config.has(name) for name in ("x2apic", "tsc-deadline", "kvm-pv-ipi", "kvm-asyncpf-int")), text
        assert config.has("apic")
        assert not any("01H:ECX" in each or "40000001H" in each for each in config.warnings)
    wanted = resolve("qemu64,+x2apic", host().without_kernel_apic(), Topology())
    assert [each for each in wanted.warnings if "x2apic" in each]


def test_enforce_refuses_what_the_host_lacks() -> None:
    with pytest.raises(UsageError, match=r"Host doesn't support requested features.*aes"):
        resolve("IvyBridge,enforce", host(missing=("aes",)))


def test_signed_forms_win_over_assignments_and_minus_over_plus() -> None:
    assert not resolve("qemu64,-cx16,cx16=on", host()).has("cx16")
    config = resolve("qemu64,-aes,+aes", host())
    assert not config.has("aes")


@pytest.mark.parametrize(
    ("text", "warned"),
    [
        ("-mce,mce=on", [("-mce", "mce=on")]),
        ("+mce,mce=off", [("+mce", "mce=off")]),
        ("mce=on,-mce", []),  # (QEMU) the order in which it would be read is the one that holds
        ("+mce,-cx8", []),
    ],
)
def test_assignment_behind_a_signed_form_is_warned_about(text: str, warned: list[tuple[str, str]]) -> None:
    found = [each for each in resolve(f"qemu64,{text}", host()).warnings if "mix" in each]
    assert found == [f'Ambiguous CPU model string. Don\'t mix both "{sign}" and "{value}"' for sign, value in warned]


@pytest.mark.parametrize("spelling", ["sse4.1", "sse4_1", "sse4-1"])
def test_spellings_of_one_feature_are_equal(spelling: str) -> None:
    assert resolve(f"qemu64,+{spelling}", host()).has("sse4.1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("IvyBrige", "unable to find CPU model 'IvyBrige'; did you mean 'IvyBridge"),
        ("qemu64,+avx3", "Property 'qemu64-x86_64-cpu.avx3' not found"),
        ("qemu64,foo=1", "Property 'qemu64-x86_64-cpu.foo' not found"),
        ("qemu64,avx=maybe", "Parameter 'avx' expects 'on' or 'off'"),
        ("qemu64,family=x", "Parameter 'family' expects int64"),
        ("qemu64,family=500", r"\.family doesn't take value 500 \(minimum: 0, maximum: 270\)"),
        ("qemu64,vendor=abc", "vendor' doesn't take value 'abc'"),
        ("qemu64,phys-bits=60", r"phys-bits should be between 32 and 52  \(but is 60\)"),
        ("qemu64,hv-relaxed=on", "hv-relaxed=on is not available in this version"),
        ("qemu64,+hv-time", "hv-time=on is not available in this version"),
        ("qemu64,+vmx-ept", "vmx-ept=on is not available in this version"),
        ("qemu64,+intel-pt", "feature 'intel-pt' is not available in this version"),
    ],
)
def test_wrong_text_is_refused_naming_it(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve(text, host())


def test_what_is_not_built_may_be_switched_off() -> None:
    resolve("qemu64,hv-relaxed=off,vmx-ept=off,-intel-pt,lmce=off", host())


def test_features_not_built_are_never_shown_by_host() -> None:
    config = resolve("host,migratable=off", host())
    assert not [name for name in NOT_BUILT & set(bits_by_name()) if config.has(name)]


def test_host_shows_what_is_supported_without_unmigratable_features() -> None:
    config = resolve("host", host(missing=("aes",)))
    assert config.has("avx512f")
    assert not config.has("aes")
    assert not config.has("invtsc")
    assert resolve("host,migratable=off", host()).has("invtsc")
    assert config.model_id == "Test CPU @ 1GHz"
    assert config.phys_bits == 46


def test_the_users_minus_holds_for_host() -> None:
    assert not resolve("host,-avx512f", host()).has("avx512f")


def test_svm_off_takes_its_features_along() -> None:
    assert not resolve("EPYC", host(AMD)).has("npt")
    assert resolve("EPYC,+svm", host(AMD)).has("npt")


def test_kvm_off_hides_the_paravirtual_leaves() -> None:
    assert leaf(resolve("qemu64", host()), 0x40000000) == (0x40000001, 0x4B4D564B, 0x564B4D56, 0x4D)
    config = resolve("qemu64,kvm=off", host())
    assert leaf(config, 0x40000000) == (0, 0, 0, 0)
    assert not config.kvmclock


def test_kvmclock_can_be_switched_off() -> None:
    config = resolve("qemu64,-kvmclock", host())
    assert not config.kvmclock
    assert not leaf(config, 0x40000001)[0] & 0b1001


def test_frequency_leaf_needs_an_invariant_tsc() -> None:
    config = resolve("qemu64,+invtsc", host())
    entries = {entry.function: entry for entry in config.cpuid(0, 2_500_000)}
    assert entries[0x40000010].eax == 2_500_000
    assert all(entry.function != 0x40000010 for entry in resolve("qemu64", host()).cpuid(0, 2_500_000))


def test_xsave_leaf_covers_the_components_of_the_visible_features() -> None:
    config = resolve("Skylake-Server", host())
    assert leaf(config, 0xD)[0] == 0x2E7
    assert leaf(config, 0xD)[2] == 2688 + 8
    assert leaf(config, 0xD, 2) == (256, 576, 0, 0)
    assert leaf(resolve("SandyBridge", host()), 0xD)[:3] == (7, 832, 832)
    assert leaf(resolve("SandyBridge,-avx", host()), 0xD)[:3] == (3, 576, 576)


def test_xsave_state_that_the_host_lacks_is_left_out() -> None:
    config = resolve("Skylake-Server", host(xcr0=0x7))
    assert leaf(config, 0xD)[0] == 7
    assert "host doesn't support requested feature: CPUID.0DH:EAX [bit 5]" in config.warnings


def test_old_machine_types_hide_newer_leaves() -> None:
    config = resolve("IvyBridge", host(), Topology(cores=2), (2, 5))
    assert leaf(config, 0xB, 1) == (0, 0, 0, 0)
    assert leaf(config, 4, 3) == (0, 0, 0, 0)
    assert leaf(resolve("IvyBridge", host(), Topology(cores=2)), 0xB, 1)[1] == 2


def test_osxsave_of_old_command_lines_is_taken() -> None:
    assert resolve("IvyBridge,+osxsave", host()).warnings == []


def test_topology_shows_in_every_leaf_of_a_vcpu() -> None:
    config = resolve("IvyBridge", host(), Topology(sockets=2, cores=3, threads=2))
    index = 9  # socket 1, core 1, thread 1
    assert config.topology_ids(index) == (1, 0, 1, 1)
    assert config.apic_id(index) == 0b1011
    assert leaf(config, 1, index=index)[1] == 0x0B060800
    assert leaf(config, 0xB, 0, index) == (1, 2, 0x100, 11)
    assert leaf(config, 0xB, 1, index) == (3, 6, 0x201, 11)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 9), st.integers(1, 4))
def test_apic_ids_are_distinct_and_ordered(sockets: int, dies: int, cores: int, threads: int) -> None:
    topology = Topology(sockets, dies, cores, threads)
    identifiers = [topology.apic_id(index) for index in range(sockets * dies * cores * threads)]
    assert identifiers == sorted(set(identifiers))
    assert len({topology.ids(index) for index in range(len(identifiers))}) == len(identifiers)
