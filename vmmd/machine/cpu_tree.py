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
#: the properties in which vCPUs of a machine differ, with their types
_PLACE = {"socket-id": "int32", "die-id": "int32", "core-id": "int32", "thread-id": "int32", "apic-id": "uint32"}


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
    yield from (CpuProperty(name, kind) for name, kind in _PLACE.items())
    yield CpuProperty("unavailable-features", "strList")
    yield from (CpuProperty(name, "X86CPUFeatureWordInfo") for name in ("feature-words", "filtered-features"))


class CpuNodes:
    """Makes the nodes of a machine's vCPUs, which share all but their place: the model is described once."""

    def __init__(self, config: CpuConfig, apic_type: str) -> None:
        self._config = config
        self._apic_type = apic_type
        self._type_name = config.model + CPU_SUFFIX
        self._shared: list[Property] = []

    def make(self, index: int) -> Node:
        """The node of vCPU ``index``, with its local APIC below it."""

        def describe() -> Iterator[Property]:
            yield from self._model()
            for name, kind, value in _place(self._config, index):
                yield _property(self._type_name, name, kind, value)

        node = Node(self._type_name, describe, subject=index, has_links=False)
        node.add("lapic", Node(self._apic_type, lambda: [Property("realized", "bool", lambda: True)]))
        return node

    def _model(self) -> list[Property]:
        if not self._shared:
            from vmmd.kvm.cpu_query import all_properties

            config = self._config
            values = all_properties(config) | {
                "ucode-rev": config.msrs()[MSR_UCODE_REV],
                "unavailable-features": list(dict.fromkeys(config.unavailable)),
                "feature-words": _words(config.words),
                "filtered-features": _words(config.filtered),
            }
            found = [Property("realized", "bool", lambda: True)]
            found += [Property(name, "bool", lambda: False) for name in ("hotplugged", "hotpluggable")]
            found += [
                _property(self._type_name, name, kind, values[name])
                for name, kind in cpu_properties(config.model)
                if name not in _PLACE
            ]
            self._shared = found
        return self._shared


def _place(config: CpuConfig, index: int) -> Iterator[tuple[str, str, int]]:
    """Where a vCPU sits in the topology."""
    ids = (*config.topology_ids(index), config.apic_id(index))
    return ((name, _PLACE[name], value) for name, value in zip(_PLACE, ids, strict=True))


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
