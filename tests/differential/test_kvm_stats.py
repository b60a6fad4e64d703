# SPDX-License-Identifier: Apache-2.0
"""query-stats, query-stats-schemas and ``info stats`` on vmmd and on QEMU, both on this host's KVM."""

from __future__ import annotations

from typing import Any

import pytest

from tests.framework.vm import Vm, emulator

pytestmark = [pytest.mark.kvm, pytest.mark.qemu]

MACHINE = ["-accel", "kvm", "-cpu", "qemu64", "-smp", "2", "-m", "32", "-nodefaults", "-S"]


def by_name(items: list[dict[str, Any]], name: str = "name") -> list[dict[str, Any]]:
    """QEMU lists statistics in the opposite order of the kernel's."""
    return sorted(items, key=lambda each: each[name])


def answers(name: str) -> tuple[list[Any], list[Any], list[Any], list[str]]:
    """Schemas; types of the VM's and vCPUs' values; lines of ``info stats``."""
    with Vm(emulator(name), MACHINE, serial=False) as vm:
        schemas = vm.qmp.cmd("query-stats-schemas")
        machine, vcpus = vm.qmp.cmd("query-stats", target="vm"), vm.qmp.cmd("query-stats", target="vcpu")
        shown = vm.qmp.hmp("info stats vcpu") + vm.qmp.hmp("info stats vm")
    for each in schemas:
        each["stats"] = by_name(each["stats"])
    values = [
        [(each["name"], shape(each["value"])) for each in by_name(result["stats"])] for result in [*machine, *vcpus]
    ]
    members = [sorted(result) for result in [*machine, *vcpus]]
    return schemas, values, members, sorted(line.partition(":")[0] for line in shown.splitlines())


def shape(value: Any) -> tuple[type, int]:
    return type(value), len(value) if isinstance(value, list) else 1


def test_statistics_are_those_that_qemu_shows() -> None:
    assert answers("vmmd") == answers("qemu")
