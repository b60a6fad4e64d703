# SPDX-License-Identifier: Apache-2.0
"""What managers ask a machine before they use it: vmmd's answers beside those of QEMU 7.2 on the same host."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.framework.qmp import QmpError
from tests.framework.vm import Vm, emulator
from vmmd.kvm.cpu_features import NOT_BUILT
from vmmd.options.introspect import GROUPS, command_line_options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.framework.qmp import Qmp
    from vmmd.options.introspect import Parameter

pytestmark = [pytest.mark.kvm, pytest.mark.qemu]

NONE = ("-machine", "none,accel=kvm:tcg")
#: properties of QEMU's CPU objects that vmmd's -cpu does not take: prefixes and names
ELSEWHERE_PREFIXES = ("vmx-", "hv-", "x-hv-", "sgx", "amx-", "intel-pt")
ELSEWHERE = NOT_BUILT | {
    # of a vCPU and no matter of its model
    "apic-id", "core-id", "die-id", "memory", "node-id", "realized", "socket-id", "start-powered-off", "thread-id",
    # TCG, Centaur, migration, performance monitoring
    "host-cache-info", "kvm-no-smi-migration", "kvm-pv-enforce-cpuid", "lbr-fmt", "lbr_fmt", "min-xlevel2",
    "tcg-cpuid", "tsc-frequency", "x-intel-pt-auto-level", "x-migrate-smi-count", "xlevel2",
}  # fmt: skip


@contextmanager
def both(*arguments: str) -> Iterator[tuple[Qmp, Qmp]]:
    """vmmd and QEMU with the same arguments, stopped."""
    common = ["-nodefaults", "-S", *arguments]
    with (
        Vm(emulator("vmmd"), common, serial=False) as ours,
        Vm(emulator("qemu"), common, serial=False) as theirs,
    ):
        yield ours.qmp, theirs.qmp


@pytest.fixture(scope="module")
def none() -> Iterator[tuple[Qmp, Qmp]]:
    with both(*NONE) as pair:
        yield pair


def by_name(entries: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in entries}


@pytest.mark.parametrize(
    "command",
    ["query-target", "query-kvm", "query-current-machine", "query-tpm", "query-jobs", "query-rx-filter",
     "query-memory-devices", "query-name", "query-display-options"],
)  # fmt: skip
def test_short_answers_are_qemus(none: tuple[Qmp, Qmp], command: str) -> None:
    ours, theirs = (qmp.cmd(command) for qmp in none)
    assert ours == theirs


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("query-hotpluggable-cpus", {}),
        ("query-rx-filter", {"name": "net0"}),
        ("query-cpu-model-expansion", {"type": "static", "model": {"name": "host", "props": {"nonsense": True}}}),
        ("query-cpu-model-expansion", {"type": "static", "model": {"name": "qemu64", "props": {"migratable": True}}}),
        ("query-cpu-model-expansion", {"type": "full", "model": {"name": "nonsense"}}),
        ("query-cpu-model-expansion", {"type": "full", "model": {"name": "host", "props": {"pni": "off"}}}),
        ("query-cpu-model-expansion", {"type": "full", "model": {"name": "host", "props": {"family": "6"}}}),
        ("query-cpu-model-expansion", {"type": "full", "model": {"name": "host", "props": {"vendor": 7}}}),
        ("query-cpu-model-expansion", {"type": "full", "model": {"name": "host", "props": {"family": 1000}}}),
        ("query-cpu-model-expansion", {"type": "other", "model": {"name": "host"}}),
        ("migrate-set-capabilities", {"capabilities": [{"capability": "events"}]}),
    ],
)
def test_errors_begin_as_qemus(none: tuple[Qmp, Qmp], command: str, arguments: dict[str, Any]) -> None:
    errors = []
    for qmp in none:
        with pytest.raises(QmpError) as caught:
            qmp.cmd(command, arguments)
        errors.append(caught.value)
    ours, theirs = errors
    assert ours.error_class == theirs.error_class
    assert ours.desc.startswith(theirs.desc)


def test_machines_are_described_as_qemus(none: tuple[Qmp, Qmp]) -> None:
    ours, theirs = (by_name(qmp.cmd("query-machines")) for qmp in none)
    assert {"none", "pc-i440fx-2.5", "pc-i440fx-7.2"} <= set(ours) <= set(theirs)
    for name, machine in ours.items():
        # no machine of vmmd takes a vCPU by device_add
        assert machine.pop("hotpluggable-cpus") is False
        del theirs[name]["hotpluggable-cpus"]
        assert machine == theirs[name]


def test_events_can_be_switched_on(none: tuple[Qmp, Qmp]) -> None:
    for state in (True, False):
        for qmp in none:
            qmp.cmd("migrate-set-capabilities", {"capabilities": [{"capability": "events", "state": state}]})
        ours, theirs = (qmp.cmd("query-migrate-capabilities") for qmp in none)
        assert ours == [{"capability": "events", "state": state}]
        assert ours[0] in theirs


@pytest.mark.parametrize("machine", ["none", "pc-i440fx-2.5", "pc-i440fx-3.1", "pc-i440fx-4.0", "pc-i440fx-7.2"])
def test_cpu_definitions_are_qemus(machine: str) -> None:
    with both("-machine", machine, "-accel", "kvm", *([] if machine == "none" else ["-m", "16"])) as (ours, theirs):
        assert ours.cmd("query-cpu-definitions") == theirs.cmd("query-cpu-definitions")


@pytest.mark.parametrize("kind", ["static", "full"])
@pytest.mark.parametrize(
    ("name", "props"),
    [
        ("host", {}),
        ("host", {"migratable": False}),
        ("host", {"host-phys-bits-limit": 40, "avx": False, "kvmclock": False}),
        ("max", {}),
        ("base", {}),
        ("qemu64", {}),
        ("qemu64", {"level": 20, "avx512f": True, "sse4_1": True, "min-xlevel": 0x80000010, "xlevel": 0x80000001}),
        ("qemu64", {"avx-vnni": True, "model-id": "mine", "kvm": False}),
        ("486", {"lm": True}),
        ("Icelake-Server", {"vendor": "AuthenticAMD"}),
        ("EPYC-Rome", {"svm": True, "npt": True, "topoext": False}),
        ("Snowridge-v2", {"arch-capabilities": False}),
        ("IvyBridge-IBRS", []),
    ],
)
def test_expanded_models_are_qemus(none: tuple[Qmp, Qmp], kind: str, name: str, props: object) -> None:
    arguments = {"type": kind, "model": {"name": name, "props": props}}
    ours, theirs = (qmp.cmd("query-cpu-model-expansion", arguments)["model"] for qmp in none)
    assert ours["name"] == theirs["name"]
    assert len(ours["props"]) > 200
    assert {key: theirs["props"].get(key) for key in ours["props"]} == ours["props"]
    missing = set(theirs["props"]) - set(ours["props"])
    assert {key for key in missing - ELSEWHERE if not key.startswith(ELSEWHERE_PREFIXES)} == set()


def test_what_is_not_there_is_refused_by_name(none: tuple[Qmp, Qmp]) -> None:
    model = {"name": "host", "props": {"migratable": False, "hv-passthrough": True}}
    with pytest.raises(QmpError, match="hv-passthrough=on is not available in this version") as caught:
        none[0].cmd("query-cpu-model-expansion", {"type": "full", "model": model})
    assert caught.value.error_class == "GenericError"


@pytest.mark.parametrize(
    "smp", ["1", "3,maxcpus=3", "4,sockets=2,cores=1,threads=2", "8,sockets=2,dies=2,cores=1,threads=2"]
)
@pytest.mark.parametrize("numa", [False, True])
def test_places_of_vcpus_are_qemus(smp: str, numa: bool) -> None:
    arguments = ["-machine", "pc", "-accel", "kvm", "-m", "16", "-smp", smp, "-cpu", "qemu64"]
    if numa:
        arguments += ["-object", "memory-backend-ram,id=ram,size=16M", "-numa", "node,memdev=ram"]
    with both(*arguments) as (ours, theirs):
        assert ours.cmd("query-memory-size-summary").items() <= theirs.cmd("query-memory-size-summary").items()
        slots = [qmp.cmd("query-hotpluggable-cpus") for qmp in (ours, theirs)]
        cpus = [qmp.cmd("query-cpus-fast") for qmp in (ours, theirs)]
    for entry in (*slots[0], *slots[1], *cpus[0], *cpus[1]):
        assert entry.pop("qom-path").startswith("/machine/unattached/device[")
        entry.pop("thread-id", None)
    assert slots[0] == slots[1]
    assert cpus[0] == cpus[1]


def test_free_places_are_not_offered() -> None:
    """QEMU lists a place without ``qom-path`` for a vCPU that device_add can make; vmmd has no such device."""
    with Vm(
        emulator("vmmd"), ["-machine", "pc", "-nodefaults", "-m", "16", "-S", "-smp", "1,maxcpus=4"], serial=False
    ) as vm:
        places = vm.qmp.cmd("query-hotpluggable-cpus")
        assert [place["qom-path"] for place in places] == [vm.qmp.cmd("query-cpus-fast")[0]["qom-path"]]


def test_options_and_their_keys_are_a_part_of_qemus(none: tuple[Qmp, Qmp]) -> None:
    options = [
        {entry["option"]: {key["name"]: key["type"] for key in entry["parameters"]} for entry in answer}
        for answer in (qmp.cmd("query-command-line-options") for qmp in none)
    ]
    ours, theirs = options
    assert {"machine", "memory", "smp-opts", "chardev", "drive", "device", "add-fd"} <= set(ours) <= set(theirs)
    assert "sandbox" not in ours  # libvirt would switch it on
    for name, keys in ours.items():
        assert keys.items() <= theirs[name].items()
    assert none[0].cmd("query-command-line-options", option="memory")[0]["option"] == "memory"
    for qmp in none:
        with pytest.raises(QmpError, match="GenericError: invalid option name: m"):
            qmp.cmd("query-command-line-options", option="m")


#: a value of each key that has some which this version does not take
TAKEN = {"aio": "io_uring", "if": "virtio"}
SAMPLES = {"boolean": "on", "number": "1", "size": "1M"}


@pytest.mark.parametrize(
    ("name", "key"), [(name, key) for name, keys in command_line_options().items() for key in keys], ids=str
)
def test_no_key_is_told_that_is_not_available(name: str, key: Parameter) -> None:
    model = next(model for model in GROUPS[name].models if key.name in model.declared) if GROUPS[name].models else None
    if model is not None:
        value = TAKEN.get(key.name) or next(iter(model.declared[key.name].kind.values), SAMPLES.get(key.type, "x"))
        made = model()
        made.take([(key.name, value)], name)
        assert made.first_unavailable() is None
