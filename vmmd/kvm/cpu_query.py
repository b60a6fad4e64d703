# SPDX-License-Identifier: Apache-2.0
"""CPU models as managers ask for them: which there are, what keeps each from running here, and what each stands for.

A model's properties are those that ``-cpu`` takes. Without KVM nothing can run: ``kvm`` is then what every model lacks,
and ``host`` and ``max``, which are made of what the host's KVM offers, stand for nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmmd.errors import UsageError
from vmmd.kvm import cpu_features as features
from vmmd.kvm.cpu_models import ALIASES
from vmmd.kvm.cpuid import (
    BOOLEANS,
    NUMBERS,
    TEXTS,
    UNVERSIONED,
    cpu_model_names,
    expand,
    lacking_features,
)
from vmmd.kvm.host_cpu import HostCpu

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vmmd.kvm.cpuid import CpuConfig

#: machine versions up to this one tell nobody that a model is an alias
_LAST_WITHOUT_ALIASES = (4, 0)
#: properties that no feature bit is and that together with the features say what the guest sees
_STATIC = ("family", "model", "stepping", "min-level", "min-xlevel", "vendor", "model-id")


class Definition(NamedTuple):
    """One name that ``-cpu`` takes."""

    name: str
    typename: str
    unavailable: tuple[str, ...]  # features that keep it from running here
    static: bool  # means the same on every host and in every version
    migration_safe: bool
    alias_of: str | None


class CpuModels:
    """The CPU models of one process. Any thread; ``definitions`` takes some 20 ms when called first."""

    def __init__(self, host: HostCpu | None, machine_version: tuple[int, int]) -> None:
        """``host``: None without KVM."""
        self._host = host
        self._machine_version = machine_version
        self._definitions: tuple[Definition, ...] = ()

    def definitions(self) -> tuple[Definition, ...]:
        """Every model, in QEMU's order."""
        if not self._definitions:
            self._definitions = tuple(self._definition(name) for name in reversed(cpu_model_names()))
        return self._definitions

    def _definition(self, name: str) -> Definition:
        return Definition(
            name,
            f"{name}-x86_64-cpu",
            self._lacking(name),
            static=name == "base",
            migration_safe=name not in ("host", "max"),
            alias_of=self._alias_of(name),
        )

    def _lacking(self, name: str) -> tuple[str, ...]:
        host = self._host
        if host is None or (name == "host" and not host.is_kvm):
            return ("kvm",)
        return tuple(lacking_features(name, host, self._machine_version))

    def _alias_of(self, name: str) -> str | None:
        if name in UNVERSIONED or self._machine_version <= _LAST_WITHOUT_ALIASES or _is_version(name):
            return None
        return ALIASES.get(name, f"{name}-v1")

    def expand(self, name: str, properties: Mapping[str, object], *, static: bool) -> dict[str, object]:
        """The properties that model ``name``, changed by ``properties``, stands for, before the host's limits.
        ``static``: only those that hold on every host. Raises UsageError."""
        if name not in cpu_model_names():
            raise UsageError(f"CPU model '{name}' not found", "see query-cpu-definitions")
        if self._host is None and name in ("host", "max"):
            # QEMU-COMPAT: the phrase
            raise UsageError(f"CPU model '{name}' requires KVM", "/dev/kvm could not be opened")
        typed = [(key, _text(name, key, value)) for key, value in properties.items()]
        config = expand(name, typed, self._host or HostCpu.without_kvm(), self._machine_version)
        if static:
            return dict(_features(config)) | {key: _value(config, key) for key in _STATIC}
        return all_properties(config)


def all_properties(config: CpuConfig) -> dict[str, object]:
    """What a resolved CPU is, by property: features under each of their names, flags, numbers and texts."""
    found: dict[str, object] = dict(_features(config))
    found |= {alias: found[target] for alias, target in features.ALIASES.items()}
    found |= {alias: found[features.canonical(alias)] for alias in features.UNDERSCORED}
    found |= config.flags
    found |= config.numbers
    found |= {key: _value(config, key) for key in (*TEXTS, "level", "xlevel", "xlevel2")}
    if config.model not in ("host", "max"):
        del found["migratable"]
    return found


def _is_version(name: str) -> bool:
    return name[-3:-1] == "-v" and name[-1].isdigit()


def _features(config: CpuConfig) -> Iterator[tuple[str, bool]]:
    """Every feature by its name, whether or not the guest sees it."""
    for name, places in features.bits_by_name().items():
        if name not in features.NOT_BUILT:
            yield name, all(config.words[index] & mask for index, mask in places)


def _value(config: CpuConfig, key: str) -> object:
    """A property that is no flag."""
    found: object = {
        "vendor": config.vendor, "model-id": config.model_id, "level": config.level, "xlevel": config.xlevel,
        "xlevel2": config.xlevel2,
    }.get(key)  # fmt: skip
    return config.numbers[key] if found is None else found


def _text(model: str, key: str, value: object) -> str:
    """A JSON value as ``-cpu`` takes it. Raises UsageError when it is of the wrong type."""
    name = features.canonical(key)
    if name == "migratable" and model not in ("host", "max"):
        raise UsageError(f"Property '{model}-x86_64-cpu.{key}' not found", "only 'host' and 'max' have it")
    wanted, word = _type_of(name)
    if type(value) is not wanted and not (wanted is object and type(value) in (bool, int, str)):
        # QEMU-COMPAT: the phrase
        raise UsageError(f"Invalid parameter type for '{key}', expected: {word}")
    if type(value) is bool:
        return "on" if value else "off"
    return str(value)


def _type_of(name: str) -> tuple[type, str]:
    """The JSON type of a property, and QAPI's word for it; any, when there is no such property."""
    if name in TEXTS:
        return str, "string"
    if name in NUMBERS:
        return int, "integer"
    if name in BOOLEANS or name in features.bits_by_name():
        return bool, "boolean"
    return object, "boolean"
