# SPDX-License-Identifier: Apache-2.0
"""The object model of vmmd and of Debian's QEMU 7.2, one machine each from the same command line.

What vmmd shows is a part of what QEMU shows: every type, property, default and value is there with the same name, type
and content, but for the differences that are listed with their reason.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.framework.qmp import QmpError
from tests.framework.vm import Vm, emulator
from vmmd.core.registry import DEVICES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.framework.qmp import Qmp

pytestmark = [pytest.mark.qemu, pytest.mark.kvm]

MACHINE = [
    *("-nodefaults", "-S", "-machine", "pc,accel=kvm", "-m", "64", "-smp", "4,sockets=1,dies=2,cores=1,threads=2"),
    *("-object", "memory-backend-ram,id=m0,size=1M", "-object", "memory-backend-memfd,id=m1,size=2M"),
    *("-object", "iothread,id=t0", "-object", "rng-random,id=r0", "-object", "rng-builtin,id=r1"),
    *("-object", "secret,id=s0,data=abc", "-object", "throttle-group,id=g0,x-iops-total=100"),
    *("-chardev", "null,id=c0", "-device", "isa-serial,chardev=c0,id=ser0"),
    *("-chardev", "null,id=c1", "-device", "isa-debugcon,chardev=c1"),
    *("-blockdev", "null-co,node-name=n0,size=1048576,read-zeroes=on"),
    *("-device", "virtio-blk-pci,drive=n0,id=disk0,serial=abc"),
    *("-device", "virtio-serial-pci,id=vs0,max_ports=5", "-chardev", "null,id=c2"),
    *("-device", "virtconsole,chardev=c2,id=con0", "-device", "virtserialport,id=port1,name=org.example,nr=3"),
    *("-blockdev", "null-co,node-name=n1,size=1048576,read-zeroes=on"),
    *("-device", "virtio-blk-pci-transitional,drive=n1,bootindex=3"),
    *("-netdev", "hubport,id=h0,hubid=0", "-device", "virtio-net-pci,netdev=h0,id=nic0,host_mtu=1400"),
]
CPUS = ("qemu64", "host", "IvyBridge,+ds,-aes", "max,migratable=off", "EPYC,family=6")

#: (type, property) -> why introspection differs. Types of types: "machine" stands for every machine.
DIFFERENT_VALUES = {
    ("cpu", "hotpluggable"): "no vCPU hot plug in this version",
    ("machine", "firmware"): "vmmd shows what was asked for",
    ("machine", "vmport"): "no VMware port in this version",
    ("machine", "smm"): "no system management mode",
    ("machine", "rtc-time"): "two machines are not started in the same second",
    ("mc146818rtc", "date"): "two machines are not started in the same second",
    ("memory-backend-ram", "prealloc-threads"): "one thread touches the pages",
    ("memory-backend-memfd", "prealloc-threads"): "one thread touches the pages",
    ("serial", "hotpluggable"): "it is a part of another device",
    ("secret", "data"): "a secret is never shown",
    ("System", "realized"): "QEMU leaves out its root bus",
}
#: properties of later QEMUs, off, of which no manager that knows 7.2 will hear (segmentation of UDP is from 8.1)
OF_LATER_VERSIONS = {"guest_uso4", "guest_uso6", "host_uso"}
#: features of SGX, processor trace and XSAVE components, which vmmd does not know as words
WORDS_OF_QEMU_ONLY = {(0x12, 0), (0x12, 1), (0x14, 0)}


class Pair:
    """The same machine on both."""

    def __init__(self, *arguments: str) -> None:
        self.vms = [Vm(emulator(name), [*MACHINE, *arguments], serial=False) for name in ("qemu", "vmmd")]

    def __enter__(self) -> tuple[Qmp, Qmp]:
        for vm in self.vms:
            vm.__enter__()
        qemu, vmmd = (vm.qmp for vm in self.vms)
        return qemu, vmmd

    def __exit__(self, *exc: Any) -> None:
        for vm in self.vms:
            vm.close()


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Qmp, Qmp]]:
    with Pair() as both:
        yield both


def outcome(qmp: Qmp, command: str, arguments: dict[str, Any]) -> Any:
    """What comes back: a value, or the class and first sentence of an error."""
    try:
        return qmp.cmd(command, arguments)
    except QmpError as error:
        return (error.error_class, error.desc.partition("; ")[0])


def listed(qmp: Qmp, path: str) -> dict[str, str]:
    return {each["name"]: each["type"] for each in qmp.cmd("qom-list", path=path)}


def get(qmp: Qmp, path: str, name: str) -> Any:
    return outcome(qmp, "qom-get", {"path": path, "property": name})


# --- types ------------------------------------------------------------------------------------------------------------


def test_types_have_qemus_parents(pair: tuple[Qmp, Qmp]) -> None:
    theirs, ours = ({each["name"]: each for each in qmp.cmd("qom-list-types", abstract=True)} for qmp in pair)
    ours.pop("qtest-accel")  # QEMU has it, Debian leaves its module out
    assert {name: each for name, each in ours.items() if theirs.get(name) != each} == {}
    for base in ("device", "pci-device", "isa-device", "user-creatable", "cpu", "machine", "chardev", "nix"):
        their, our = ({each["name"] for each in qmp.cmd("qom-list-types", implements=base)} for qmp in pair)
        assert our == their & set(ours), base


@pytest.mark.parametrize("typename", [*sorted(DEVICES), "virtio-blk-device", "virtio-serial-device", "serial"])
def test_device_properties_have_qemus_types_and_defaults(pair: tuple[Qmp, Qmp], typename: str) -> None:
    theirs, ours = (
        {each["name"]: (each["type"], each.get("default-value")) for each in reply}
        for reply in (qmp.cmd("device-list-properties", typename=typename) for qmp in pair)
    )
    assert {name: each for name, each in ours.items() if theirs.get(name) != each}.keys() <= OF_LATER_VERSIONS


@pytest.mark.parametrize(
    "typename",
    [
        *sorted(DEVICES), "memory-backend-ram", "memory-backend-memfd", "memory-backend-file", "iothread", "rng-random",
        "rng-builtin", "secret", "throttle-group", "qemu64-x86_64-cpu", "max-x86_64-cpu", "pc-i440fx-7.2-machine",
        "none-machine", "PCI", "container", "chardev-socket", "device", "object",
    ],
)  # fmt: skip
def test_properties_of_types_are_qemus(pair: tuple[Qmp, Qmp], typename: str) -> None:
    theirs, ours = (
        {each["name"]: each["type"] for each in qmp.cmd("qom-list-properties", typename=typename)} for qmp in pair
    )
    assert {name: each for name, each in ours.items() if theirs.get(name) != each}.keys() <= OF_LATER_VERSIONS


# --- the tree ---------------------------------------------------------------------------------------------------------


def same_nodes(pair: tuple[Qmp, Qmp]) -> Iterator[tuple[str, str]]:
    """Paths of vmmd and of QEMU to the same objects. What is numbered may have another number: those by type."""
    qemu, vmmd = pair
    yield "/machine", "/machine"
    for folder in ("/objects", "/machine/peripheral", "/machine/peripheral-anon"):
        for name, kind in listed(vmmd, folder).items():
            if kind.startswith("child<"):
                yield f"{folder}/{name}", f"{folder}/{name}"
    theirs = {kind: name for name, kind in reversed(listed(qemu, "/machine/unattached").items())}
    for name, kind in listed(vmmd, "/machine/unattached").items():
        if kind.startswith("child<") and not any(each in kind for each in ("cpu", "i8259", "i8257")):
            yield f"/machine/unattached/{name}", f"/machine/unattached/{theirs[kind]}"
    yield "/machine/i440fx", "/machine/i440fx"
    yield "/machine/i440fx/pci.0", "/machine/i440fx/pci.0"
    yield "/machine/peripheral/disk0/virtio-backend", "/machine/peripheral/disk0/virtio-backend"
    yield "/machine/peripheral/disk0/virtio-bus", "/machine/peripheral/disk0/virtio-bus"
    yield "/machine/peripheral/vs0/virtio-backend", "/machine/peripheral/vs0/virtio-backend"
    yield "/machine/peripheral/vs0/virtio-backend/vs0.0", "/machine/peripheral/vs0/virtio-backend/vs0.0"
    yield "/machine/peripheral/ser0/serial", "/machine/peripheral/ser0/serial"


def test_objects_have_qemus_properties_and_values(pair: tuple[Qmp, Qmp]) -> None:
    qemu, vmmd = pair
    different = []
    for our_path, their_path in same_nodes(pair):
        ours, theirs = listed(vmmd, our_path), listed(qemu, their_path)
        kind = get(vmmd, our_path, "type")
        for name, word in ours.items():
            # buses: QEMU has further devices on them
            if name.startswith("child[") or name in OF_LATER_VERSIONS:
                continue
            values = (
                (word, get(vmmd, our_path, name)),
                (theirs.get(name), theirs.get(name) and get(qemu, their_path, name)),
            )
            if values[0] != values[1] and not reason(kind, name, *values):
                different.append((our_path, name, *values))
    assert different == []


def reason(kind: str, name: str, ours: tuple[str, Any], theirs: tuple[str | None, Any]) -> str | None:
    """Why a value may differ."""
    if ours[0] == theirs[0] and re.match(r"/machine/unattached/device\[", str(ours[1])):
        return "links to numbered objects have other numbers"
    group = "machine" if kind.endswith("-machine") else "cpu" if kind.endswith("-cpu") else kind
    return DIFFERENT_VALUES.get((group, name)) if ours[0] == theirs[0] else None


def test_machine_none_is_qemus() -> None:
    arguments = ["-nodefaults", "-machine", "none,accel=kvm", "-object", "memory-backend-ram,id=m0,size=1M"]
    with (
        Vm(emulator("qemu"), arguments, serial=False) as qemu,
        Vm(emulator("vmmd"), arguments, serial=False) as vmmd,
    ):
        for path in ("/machine", "/machine/unattached/sysbus"):
            theirs, ours = listed(qemu.qmp, path), listed(vmmd.qmp, path)
            assert {name: word for name, word in ours.items() if theirs.get(name) != word} == {}
            for name in ours.keys() - {"realized"}:
                assert get(vmmd.qmp, path, name) == get(qemu.qmp, path, name), name
        for command in ("info qtree", "info memdev"):
            assert vmmd.qmp.hmp(command) == qemu.qmp.hmp(command)


@pytest.mark.parametrize("model", CPUS)
def test_cpu_objects_are_qemus(model: str) -> None:
    with Pair("-cpu", model) as (qemu, vmmd):
        paths = [qmp.cmd("query-cpus-fast")[3]["qom-path"] for qmp in (qemu, vmmd)]
        ours, theirs = listed(vmmd, paths[1]), listed(qemu, paths[0])
        assert len(ours) > 250
        different = {}
        for name, word in ours.items():
            mine = word, get(vmmd, paths[1], name)
            their = theirs.get(name), theirs.get(name) and get(qemu, paths[0], name)
            if word == "X86CPUFeatureWordInfo":
                mine, their = (
                    words(mine[1]),
                    {key: bits for key, bits in words(their[1]).items() if key in words(mine[1])},
                )
            if mine != their and ("cpu", name) not in DIFFERENT_VALUES and not word.startswith("child<"):
                different[name] = (mine, their)
        assert different == {}
        missing = (
            words(get(qemu, paths[0], "feature-words")).keys() - words(get(vmmd, paths[1], "feature-words")).keys()
        )
        assert {(leaf, sub) for leaf, sub, _ in missing} <= WORDS_OF_QEMU_ONLY | {(0xD, 0), (0xD, 1)}


def words(entries: list[dict[str, Any]]) -> dict[tuple[int, int, str], int]:
    """The bits of each word by leaf, subleaf and register. Subleaf 0 may be left out."""
    return {
        (each["cpuid-input-eax"], each.get("cpuid-input-ecx", 0), each["cpuid-register"]): each["features"]
        for each in entries
    }


# --- errors and effects, in order -------------------------------------------------------------------------------------

LIMITS = {"bps-total": 1 << 20, "bps-total-max": 2 << 20, "bps-total-max-length": 3}
Step = tuple[str, dict[str, Any]]


def getting(path: str, name: str) -> Step:
    return "qom-get", {"path": path, "property": name}


def setting(path: str, name: str, value: Any) -> Step:
    return "qom-set", {"path": path, "property": name, "value": value}


DIALOGUE: list[Step] = [
    *[("qom-list", {"path": path}) for path in ("", "/nix", "nix", "virtio-backend", "/objects/nix")],
    *[getting(path, "type") for path in ("", "nix", "virtio-backend", "disk0", "/", "//machine")],
    *[getting("disk0", name) for name in ("nix", "virtio-backend", "parent_bus", "serial")],
    getting("/machine/peripheral/disk0/virtio-bus/child[0]", "type"),
    *[setting("disk0", name, 1) for name in ("nix", "type", "serial", "addr", "scsi")],
    setting("disk0", "virtio-backend", 1),
    setting("ser0", "baudbase", 1),
    setting("ser0", "index", 1),
    setting("disk0", "bootindex", "1"),
    setting("disk0", "bootindex", 3),  # another disk has it
    setting("disk0", "bootindex", 5),
    getting("disk0", "bootindex"),
    *[setting("t0", "poll-max-ns", value) for value in (-1, "x", 1.5, True, None, 7)],
    getting("t0", "poll-max-ns"),
    setting("m0", "size", 1),
    setting("m0", "share", True),
    setting("m0", "merge", 1),
    setting("m0", "merge", False),
    getting("m0", "merge"),
    setting("r0", "filename", "/dev/zero"),
    setting("g0", "x-iops-total", 1),
    setting("g0", "limits", {"iops-total": 5, "iops-read": 1}),
    setting("g0", "limits", LIMITS),
    getting("g0", "limits"),
    ("object-add", {"qom-type": "throttle-group", "id": "g1", "limits": {"iops-total-max-length": 5}}),
    ("object-add", {"qom-type": "iothread", "id": "t0"}),
    ("object-add", {"qom-type": "nix", "id": "x"}),
    ("object-add", {"qom-type": "secret", "id": "x", "data": "a", "keyid": "m0", "iv": "AAAA"}),
    ("object-del", {"id": "nix"}),
    ("object-del", {"id": "pc.ram"}),
    ("object-del", {"id": "m1"}),
    ("qom-list", {"path": "/objects/m1"}),
    ("device-list-properties", {"typename": "nix"}),
    ("device-list-properties", {"typename": "pci-device"}),
    ("qom-list-properties", {"typename": "nix"}),
    ("qom-list-properties", {"typename": "user-creatable"}),
]  # fmt: skip


def test_dialogue_has_qemus_answers(pair: tuple[Qmp, Qmp]) -> None:
    qemu, vmmd = pair
    for command, arguments in DIALOGUE:
        assert outcome(vmmd, command, arguments) == outcome(qemu, command, arguments), (command, arguments)


def test_texts_for_people_are_a_part_of_qemus(pair: tuple[Qmp, Qmp]) -> None:
    qemu, vmmd = pair
    for command in ("info qtree", "info memdev"):
        theirs = qemu.hmp(command).split("\r\n")
        theirs += [f"{'':12}{name} = false" for name in OF_LATER_VERSIONS]
        assert [line for line in vmmd.hmp(command).split("\r\n") if line not in theirs] == []
    ours = vmmd.hmp("info qom-tree /machine/peripheral").split("\r\n")
    assert [line for line in ours if line not in qemu.hmp("info qom-tree /machine/peripheral").split("\r\n")] == []
    assert len(ours) > 5


def test_encrypted_secrets_are_read_alike(pair: tuple[Qmp, Qmp], tmp_path: Path) -> None:
    import base64

    ciphers = pytest.importorskip("cryptography.hazmat.primitives.ciphers")
    key, iv, plain = bytes(range(32)), bytes(range(16)), b"letmein" + b"\x09" * 9
    encryptor = ciphers.Cipher(ciphers.algorithms.AES(key), ciphers.modes.CBC(iv)).encryptor()
    text = base64.b64encode(encryptor.update(plain) + encryptor.finalize()).decode()
    common = {"qom-type": "secret", "format": "base64"}
    steps = [
        {**common, "id": "key", "data": base64.b64encode(key).decode()},
        {**common, "id": "good", "data": text, "keyid": "key", "iv": base64.b64encode(iv).decode()},
        {**common, "id": "bad", "data": text, "keyid": "key", "iv": base64.b64encode(iv[::-1]).decode()},
    ]
    for step in steps:
        assert outcome(pair[1], "object-add", step) == outcome(pair[0], "object-add", step), step["id"]
