# SPDX-License-Identifier: Apache-2.0
"""What a vCPU shows in the object tree: features, model, place in the topology. Managers read every one of some 300
properties, one command each: they are values of one dictionary, made when first asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, NoReturn

from vmmd.core.tree import Node, Property
from vmmd.errors import UsageError
from vmmd.kvm import cpu_features as features
from vmmd.kvm.cpu_features import MSR, WORDS
from vmmd.kvm.cpuid import BOOLEANS, NUMBERS, TEXTS
from vmmd.kvm.msr import MSR_UCODE_REV

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vmmd.kvm.cpuid import CpuConfig

CPU_SUFFIX = "-x86_64-cpu"
_REGISTERS = ("EAX", "EBX", "ECX", "EDX")
#: leaves whose features depend on ECX
_WITH_SUBLEAF = frozenset({7, 0xD})
#: types of the numbers that are not uint32
_NUMBER_TYPES = {
    "family": "int", "model": "int", "stepping": "int", "host-phys-bits-limit": "uint8", "ucode-rev": "uint64",
}  # fmt: skip


class CpuProperty(NamedTuple):
    """Name and type of a property of CPUs."""

    name: str
    type: str


def cpu_properties(model: str) -> Iterator[CpuProperty]:
    """The properties of CPUs of a model, without values."""
    for name in features.bits_by_name():
        if name not in features.NOT_BUILT:
            yield CpuProperty(name, "bool")
    for name in (*features.ALIASES, *features.UNDERSCORED):
        yield CpuProperty(name, "bool")
    for name in BOOLEANS:
        if name != "migratable" or model in ("host", "max"):
            yield CpuProperty(name, "bool")
    for name in NUMBERS:
        yield CpuProperty(name, _NUMBER_TYPES.get(name, "uint32"))
    for name in TEXTS:
        yield CpuProperty(name, "string")
    yield from (CpuProperty(name, "int32") for name in ("socket-id", "die-id", "core-id", "thread-id"))
    yield CpuProperty("apic-id", "uint32")
    yield CpuProperty("unavailable-features", "strList")
    yield from (CpuProperty(name, "X86CPUFeatureWordInfo") for name in ("feature-words", "filtered-features"))


def cpu_node(config: CpuConfig, index: int) -> Node:
    """The node of vCPU ``index``, with its local APIC below it."""
    type_name = config.model + CPU_SUFFIX

    def describe() -> Iterator[Property]:
        from vmmd.kvm.cpu_query import all_properties

        values = all_properties(config) | _values(config, index)
        yield Property("realized", "bool", lambda: True)
        yield from (Property(name, "bool", lambda: False) for name in ("hotplugged", "hotpluggable"))
        for name, kind in cpu_properties(config.model):
            yield _property(type_name, name, kind, values[name])

    node = Node(type_name, describe, subject=index)
    node.add("lapic", Node("kvm-apic", lambda: [Property("realized", "bool", lambda: True)]))
    return node


def _values(config: CpuConfig, index: int) -> dict[str, object]:
    """What a vCPU is besides its model."""
    socket, die, core, thread = config.topology_ids(index)
    return {
        "socket-id": socket,
        "die-id": die,
        "core-id": core,
        "thread-id": thread,
        "apic-id": config.apic_id(index),
        "ucode-rev": config.msrs()[MSR_UCODE_REV],
        "unavailable-features": list(dict.fromkeys(config.unavailable)),
        "feature-words": _words(config.words),
        "filtered-features": _words(config.filtered),
    }


def _words(words: list[int]) -> list[dict[str, object]]:
    """Words of CPUID features, the last one first as QEMU lists them."""
    shown: list[dict[str, object]] = []
    for word, bits in zip(WORDS, words, strict=True):
        if word.register == MSR:
            continue
        entry: dict[str, object] = {"cpuid-input-eax": word.leaf}
        if word.leaf in _WITH_SUBLEAF:
            entry["cpuid-input-ecx"] = word.subleaf
        shown.insert(0, {**entry, "cpuid-register": _REGISTERS[word.register], "features": bits})
    return shown


def _property(type_name: str, name: str, kind: str, value: object) -> Property:
    def refuse(_value: object) -> NoReturn:
        # QEMU-COMPAT: the sentence
        raise UsageError(
            f"Attempt to set property '{features.canonical(name)}' on anonymous device (type '{type_name}') after it "
            "was realized"
        )

    setter: Callable[[object], None] | None = None if kind in ("strList", "X86CPUFeatureWordInfo") else refuse
    return Property(name, kind, lambda: value, setter)
