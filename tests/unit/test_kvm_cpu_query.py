# SPDX-License-Identifier: Apache-2.0
"""CPU models as managers ask for them, on a made-up host and without KVM."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.test_kvm_cpuid import host
from vmmd.errors import UsageError
from vmmd.kvm.cpu_features import bits_by_name
from vmmd.kvm.cpu_query import CpuModels
from vmmd.kvm.cpuid import BOOLEANS, NUMBERS, TEXTS, cpu_model_names
from vmmd.kvm.host_cpu import HostCpu

NEWEST = (7, 2)
JSON = st.one_of(
    st.none(), st.booleans(), st.integers(-(1 << 63), (1 << 63) - 1), st.floats(), st.text(max_size=14),
    st.lists(st.integers(), max_size=1), st.dictionaries(st.text(max_size=2), st.integers(), max_size=1),
)  # fmt: skip
NAMES = [*bits_by_name(), *BOOLEANS, *NUMBERS, *TEXTS, "hv-relaxed", "vmx-ept", "tsc-frequency", "osxsave", "sse4_1"]


def definitions(models: CpuModels) -> dict[str, Any]:
    return {each.name: each for each in models.definitions()}


def test_definitions_name_what_the_host_lacks_in_qemus_order() -> None:
    small = host(missing=("rdrand", "avx512f", "pku"), xcr0=0x1F)
    found = definitions(CpuModels(small, NEWEST))
    assert list(found) == list(reversed(cpu_model_names()))
    assert found["host"].unavailable == found["max"].unavailable == found["base"].unavailable == ()
    assert found["qemu64"].unavailable == ()
    assert found["IvyBridge"].unavailable == ("rdrand",)
    # state components stand behind, under the name of the feature that wants them
    features, components = ("rdrand", "avx512f", "pku"), ("avx512f", "avx512f", "avx512f", "pku")
    assert found["Skylake-Server"].unavailable == features + components
    assert found["qemu64"].typename == "qemu64-x86_64-cpu"
    assert [name for name, each in found.items() if each.static] == ["base"]
    assert sorted(name for name, each in found.items() if not each.migration_safe) == ["host", "max"]


def test_aliases_are_told_from_pc_4_1_on() -> None:
    newer, older = (definitions(CpuModels(host(), version)) for version in ((4, 1), (4, 0)))
    assert newer["Haswell"].alias_of == "Haswell-v1"
    assert newer["Haswell-noTSX"].alias_of == "Haswell-v2"
    assert newer["Haswell-v1"].alias_of is newer["host"].alias_of is None
    assert {each.alias_of for each in older.values()} == {None}


def test_without_kvm_every_model_lacks_it() -> None:
    models = CpuModels(None, NEWEST)
    assert {each.unavailable for each in models.definitions()} == {("kvm",)}
    for name in ("host", "max"):
        with pytest.raises(UsageError, match=f"CPU model '{name}' requires KVM"):
            models.expand(name, {}, static=True)
    props = models.expand("IvyBridge", {}, static=True)
    assert props["avx"] is True
    assert props["svm"] is False
    assert props["vendor"] == HostCpu.without_kvm().vendor


def test_static_properties_are_among_the_full_ones() -> None:
    models = CpuModels(host(), NEWEST)
    for name in ("host", "qemu64", "EPYC-Milan"):
        static, full = (models.expand(name, {"ss": True}, static=kind) for kind in (True, False))
        assert static.items() <= full.items()
        assert ("migratable" in full) == (name == "host")
        assert full["sse4_1"] == full["sse4.1"]
        assert full["sse3"] == full["pni"]


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(["host", "max", "base", "qemu64", "EPYC", "nonsense"]),
    properties=st.dictionaries(st.one_of(st.sampled_from(NAMES), st.text(max_size=9)), JSON, max_size=4),
    static=st.booleans(),
)
def test_any_properties_end_in_an_expansion_or_in_a_sentence(
    name: str, properties: dict[str, object], static: bool
) -> None:
    models = CpuModels(host(), NEWEST)
    try:
        found = models.expand(name, properties, static=static)
    except UsageError:
        return
    assert len(found) > 200
    assert {type(value) for value in found.values()} <= {bool, int, str}
