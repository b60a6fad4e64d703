# SPDX-License-Identifier: Apache-2.0
"""qom-*, object-add, object-del, device-list-properties and their forms for people, on a monitor without a guest."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.framework.qmp import Qmp, QmpError
from tests.unit.qmp_support import Monitor

if TYPE_CHECKING:
    from collections.abc import Iterator

MiB = 1 << 20


@pytest.fixture(scope="module")
def monitor() -> Iterator[Monitor]:
    with Monitor() as running:
        yield running


@pytest.fixture
def qmp(monitor: Monitor) -> Iterator[Qmp]:
    client = Qmp.connect(monitor.path)
    yield client
    for name in [each["name"] for each in client.cmd("qom-list", path="/objects")]:
        if name != "type":
            client.cmd("object-del", id=name)
    client.close()


def refusal(qmp: Qmp, command: str, **arguments: Any) -> tuple[str, str]:
    """Class and first sentence of the error."""
    with pytest.raises(QmpError) as caught:
        qmp.cmd(command, {key.replace("_", "-"): value for key, value in arguments.items()})
    return caught.value.error_class, caught.value.desc.partition("; ")[0]


def add(qmp: Qmp, qom_type: str, id_: str = "o", **keys: Any) -> None:
    arguments = {key.replace("_", "-"): value for key, value in keys.items()}
    assert qmp.cmd("object-add", {"qom-type": qom_type, "id": id_, **arguments}) == {}


def test_object_is_in_the_tree_between_add_and_del(qmp: Qmp) -> None:
    add(qmp, "memory-backend-ram", size=MiB)
    assert {"name": "o", "type": "child<memory-backend-ram>"} in qmp.cmd("qom-list", path="/objects")
    listed = {each["name"]: each["type"] for each in qmp.cmd("qom-list", path="o")}
    assert (listed["type"], listed["size"], listed["share"]) == ("string", "int", "bool")
    assert qmp.cmd("qom-get", path="/objects/o", property="size") == MiB
    assert qmp.cmd("qom-get", path="/objects", property="o") == "/objects/o"
    qmp.cmd("object-del", id="o")
    assert refusal(qmp, "qom-list", path="/objects/o") == ("DeviceNotFound", "Device '/objects/o' not found")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"qom-type": "iothread"}, "Parameter 'id' is missing"),
        ({"id": "z"}, "Parameter 'qom-type' is missing"),
        ({"qom-type": "nix", "id": "z"}, "Parameter 'qom-type' does not accept value 'nix'"),
        ({"qom-type": "iothread", "id": "1z"}, "Parameter 'id' expects an identifier"),
        ({"qom-type": "iothread", "id": "z", "foo": 1}, "Parameter 'foo' is unexpected"),
        ({"qom-type": "iothread", "id": "z", "poll-grow": "1"},
         "Invalid parameter type for 'poll-grow', expected: integer"),
        ({"qom-type": "iothread", "id": "z", "poll-grow": -1},
         "poll-grow value must be in range [0, 9223372036854775807]"),
        ({"qom-type": "iothread", "id": "z", "thread-pool-min": 2}, "Parameter 'thread-pool-min' is unexpected"),
        ({"qom-type": "memory-backend-ram", "id": "z", "size": 0},
         "property 'size' of memory-backend-ram doesn't take value '0'"),
        ({"qom-type": "secret", "id": "z"}, "Either 'file' or 'data' must be provided"),
        ({"qom-type": "throttle-group", "id": "z", "limits": {"iops-size": 1}},
         "iops size requires an iops value to be set"),
        ({"qom-type": "throttle-group", "id": "z", "limits": {"nix": 1}}, "Parameter 'limits.nix' is unexpected"),
        ({"qom-type": "rng-random", "id": "z", "filename": "/nix"}, "Could not open '/nix': No such file or directory"),
    ],
)  # fmt: skip
def test_object_add_refuses_in_qemus_words(qmp: Qmp, arguments: dict[str, Any], sentence: str) -> None:
    assert refusal(qmp, "object-add", **arguments) == ("GenericError", sentence)
    assert [each["name"] for each in qmp.cmd("qom-list", path="/objects")] == ["type"]


def test_object_that_is_there_or_not(qmp: Qmp) -> None:
    add(qmp, "rng-builtin")
    assert refusal(qmp, "object-add", qom_type="iothread", id="o")[1].startswith(
        "attempt to add duplicate property 'o'"
    )
    assert refusal(qmp, "object-del", id="x") == ("GenericError", "object 'x' not found")


def test_iothreads_and_memory_are_queried(qmp: Qmp) -> None:
    add(qmp, "iothread", "t", poll_max_ns=7)
    add(qmp, "memory-backend-memfd", "m", size=MiB, dump=False)
    (thread,) = qmp.cmd("query-iothreads")
    assert os.path.exists(f"/proc/self/task/{thread.pop('thread-id')}")
    assert thread == {"id": "t", "poll-max-ns": 7, "poll-grow": 0, "poll-shrink": 0, "aio-max-batch": 0}
    qmp.cmd("qom-set", path="/objects/t", property="poll-max-ns", value=9)
    assert qmp.cmd("query-iothreads")[0]["poll-max-ns"] == 9
    (memory,) = qmp.cmd("query-memdev")
    assert memory == {
        "id": "m", "size": MiB, "merge": True, "dump": False, "prealloc": False, "share": True, "reserve": True,
        "host-nodes": [], "policy": "default",
    }  # fmt: skip


def test_paths(qmp: Qmp) -> None:
    assert refusal(qmp, "qom-list", path="") == ("GenericError", "Path '' is ambiguous")
    assert refusal(qmp, "qom-get", path="", property="type") == ("DeviceNotFound", "Device '' not found")
    assert refusal(qmp, "qom-get", path="/machine", property="nix")[0] == "GenericError"
    assert refusal(qmp, "qom-set", path="/nix", property="x", value=None)[0] == "DeviceNotFound"
    assert qmp.cmd("qom-get", path="chardevs", property="type") == "container"


# --- types ------------------------------------------------------------------------------------------------------------


def names(qmp: Qmp, **arguments: Any) -> set[str]:
    return {each["name"] for each in qmp.cmd("qom-list-types", arguments)}


def test_types_by_what_they_are(qmp: Qmp) -> None:
    assert {"isa-serial", "isa-debugcon", "mc146818rtc", "kvm-pit"} <= names(qmp, implements="isa-device")
    assert "virtio-blk-pci" not in names(qmp, implements="isa-device")
    assert names(qmp, implements="user-creatable") >= {"iothread", "secret", "throttle-group"}
    assert names(qmp, implements="nix") == set()
    every = names(qmp)
    assert every >= names(qmp, implements="device")
    assert not {"device", "pci-device"} & every
    assert {"device", "pci-device"} <= names(qmp, abstract=True)
    assert {"kvm-accel", "host-x86_64-cpu", "pc-i440fx-7.2-machine", "chardev-socket"} <= every
    assert not {"tcg-accel", "VGA", "e1000", "sev-guest"} & every


def test_every_parent_is_a_type_and_every_type_has_properties(qmp: Qmp) -> None:
    types = qmp.cmd("qom-list-types", abstract=True)
    known = {each["name"] for each in types}
    for each in types:
        assert each.get("parent", "object") in known
        if each["name"] in ("interface", "user-creatable"):
            assert refusal(qmp, "qom-list-properties", typename=each["name"])[0] == "GenericError"
            continue
        listed = qmp.cmd("qom-list-properties", typename=each["name"])
        assert listed[0] == {"name": "type", "type": "string"}
        assert all(entry["type"] for entry in listed), each
    assert refusal(qmp, "qom-list-properties", typename="nix") == ("DeviceNotFound", "Class 'nix' not found")


def test_device_properties(qmp: Qmp) -> None:
    listed = {each["name"]: each for each in qmp.cmd("device-list-properties", typename="virtio-blk-pci")}
    assert listed["queue-size"]["default-value"] == 256
    assert listed["scsi"]["default-value"] is False
    assert not {"default-value"} & (listed["drive"].keys() | listed["bootindex"].keys())
    assert not {"iothread", "packed", "realized", "type"} & listed.keys()  # not there, or no property of the type
    assert refusal(qmp, "device-list-properties", typename="nix") == ("DeviceNotFound", "Device 'nix' not found")
    for typename in ("pci-device", "iothread"):
        assert refusal(qmp, "device-list-properties", typename=typename) == (
            "GenericError",
            "Parameter 'typename' expects a non-abstract device type",
        )


# --- for people -------------------------------------------------------------------------------------------------------


def test_objects_for_people(qmp: Qmp) -> None:
    assert qmp.hmp("object_add iothread,id=t,poll-max-ns=5") == ""
    assert qmp.hmp("qom-get /objects/t poll-max-ns") == "5\r\n"
    assert qmp.hmp("qom-set /objects/t poll-max-ns 0x10") == ""
    assert qmp.hmp("qom-set -j /objects/t poll-grow 3") == ""
    # QEMU-COMPAT: the sentences of its parser
    assert qmp.hmp("qom-set -j /objects/t poll-grow {bad") == "Error: JSON parse error, invalid keyword 'bad'\r\n"
    assert qmp.hmp("qom-list /objects") == "type (string)\r\nt (child<iothread>)\r\n"
    text = qmp.hmp("info iothreads")
    assert text.startswith("t:\r\n  thread_id=")
    assert text.endswith("poll-max-ns=16\r\n  poll-grow=3\r\n  poll-shrink=0\r\n  aio-max-batch=0\r\n")
    assert qmp.hmp("info qom-tree /objects") == "/objects (container)\r\n  /t (iothread)\r\n"
    assert qmp.hmp("qom-set /objects/t poll-grow abc") == "Error: Parameter 'poll-grow' expects int64\r\n"
    assert qmp.hmp("qom-get /objects") == ('qom-get: string expected\r\nTry "help qom-get" for more information\r\n')
    assert qmp.hmp("object_add tls-creds-anon,id=x") == "Error: tls-creds-anon: not available in this version\r\n"
    assert qmp.hmp("object_add iothread").startswith("Error: Parameter 'id' is missing")
    assert qmp.hmp("info qom-tree /nix") == "Path '/nix' could not be resolved.\r\n"
    assert "poll-max-ns=<int>" in qmp.hmp("object_add iothread,help")
    assert qmp.hmp("object_del t") == ""
    assert qmp.hmp("object_del t") == "Error: object 't' not found\r\n"


def test_memory_for_people(qmp: Qmp) -> None:
    add(qmp, "memory-backend-ram", "m", size=MiB)
    assert qmp.hmp("info memdev") == (
        "memory backend: m\r\n  size:  1048576\r\n  merge: true\r\n  dump: true\r\n  prealloc: false\r\n"
        "  share: false\r\n  reserve: true\r\n  policy: default\r\n  host nodes: \r\n\r\n"
    )
