# SPDX-License-Identifier: Apache-2.0
"""What vmmd's query-qmp-schema offers is a structural subset of QEMU 7.2's: for every command, its arguments and
return, and for every event. What is vmmd's own is named ``__org.vmmd_…``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.framework.qapi import OWN, Comparison, Schema
from tests.framework.vm import Vm, emulator
from vmmd.qmp.introspect import build_schema

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.qemu

#: of a later QEMU: name → the release that has it
NEWER = {"query-accelerators": "11.1"}

OURS = Schema([dict(entity) for entity in build_schema()])
COMMANDS = sorted(name for name in OURS.names("command") if not name.startswith(OWN))
EVENTS = sorted(name for name in OURS.names("event") if not name.startswith(OWN))


@pytest.fixture(scope="module")
def theirs() -> Iterator[Schema]:
    with Vm(emulator("qemu"), ["-machine", "none", "-nodefaults", "-S"], serial=False) as vm:
        yield Schema(vm.qmp.cmd("query-qmp-schema"))


@pytest.mark.parametrize("name", COMMANDS)
def test_command_is_a_subset_of_qemus(name: str, theirs: Schema) -> None:
    if name in NEWER:
        assert name not in theirs.names("command")
        return
    assert name in theirs.names("command"), "neither QEMU's nor named __org.vmmd_…"
    assert Comparison(OURS, theirs).command(name) == []


@pytest.mark.parametrize("name", EVENTS)
def test_event_is_a_subset_of_qemus(name: str, theirs: Schema) -> None:
    assert name in theirs.names("event"), "neither QEMU's nor named __org.vmmd_…"
    assert Comparison(OURS, theirs).event(name) == []


def test_the_comparison_finds_differences(theirs: Schema) -> None:
    """A check that cannot fail would say nothing."""
    wrong = [dict(entity) for entity in theirs.by_name.values()]
    by_name = {entity["name"]: entity for entity in wrong}
    empty = by_name["query-status"]["arg-type"]
    by_name["query-chardev"]["arg-type"] = by_name["chardev-remove"]["arg-type"]
    by_name["chardev-remove"]["arg-type"] = empty
    by_name["query-status"]["ret-type"] = "str"
    by_name["SHUTDOWN"]["arg-type"] = by_name["RTC_CHANGE"]["arg-type"]
    comparison = Comparison(Schema(wrong), theirs)
    assert comparison.command("query-chardev") == ["query-chardev arguments: has member id"]
    assert comparison.command("chardev-remove") == ["chardev-remove arguments: lacks member id"]
    assert comparison.command("query-status") == ["query-status return: builtin, not object"]
    assert comparison.event("SHUTDOWN") != []
    unchanged = Comparison(theirs, theirs)
    assert [name for name in theirs.names("command") if unchanged.command(name)] == []
