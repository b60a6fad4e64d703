# SPDX-License-Identifier: Apache-2.0
"""What devices, vCPUs and the machine show in the object tree, on fakes (beside QEMU's: test_qom)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.fakes import FakeChardev, make_context, props
from tests.unit.test_kvm_cpuid import host
from vmmd.core.bootindex import BootIndices
from vmmd.core.device_tree import place
from vmmd.core.tree import ObjectTree
from vmmd.devices.isa.rtc import Mc146818Rtc
from vmmd.devices.isa.serial import IsaSerial
from vmmd.errors import UsageError
from vmmd.kvm.cpuid import Topology, resolve
from vmmd.machine.cpu_tree import CpuNodes, cpu_properties
from vmmd.machine.machine_tree import describe_machine
from vmmd.options.cmdline import parse


def plugged(tree: ObjectTree, *, id_: str | None, **given: str) -> IsaSerial:
    machine = make_context()
    machine.backends.chardevs["c0"] = FakeChardev()
    device = IsaSerial(props(IsaSerial, chardev="c0", **given), machine.ctx, id_)
    place(tree, device)
    device.plug()
    return device


def test_device_shows_what_was_given_and_what_was_chosen() -> None:
    tree = ObjectTree()
    tree.add_bus("isa.0", tree.machine, "ISA")
    device = plugged(tree, id_="com", baudbase="9600")
    node = tree.resolve("/machine/peripheral/com")
    assert (node.path, node.subject) == (device.qom_path, device)
    values = {name: node.get(name) for name in ("index", "iobase", "irq", "baudbase", "chardev", "hotplugged")}
    assert values == {
        "index": 0, "iobase": 0x3F8, "irq": 4, "baudbase": 9600, "chardev": "c0", "hotplugged": False,
    }  # fmt: skip
    assert node.get("parent_bus") == "/machine/isa.0"
    assert tree.resolve("/machine/isa.0/child[0]") is node
    assert tree.resolve("com/serial").get("baudbase") == 9600
    with pytest.raises(
        UsageError, match=r"Attempt to set property 'irq' on device 'com' \(type 'isa-serial'\) after it"
    ):
        node.set("irq", 3)
    with pytest.raises(UsageError, match=r"'wakeup' on anonymous device \(type 'serial'\) after it was realized"):
        node.set("wakeup", True)


def test_unplugged_device_leaves_tree_and_bus() -> None:
    tree = ObjectTree()
    bus = tree.add_bus("isa.0", tree.machine, "ISA")
    devices = [plugged(tree, id_=None), plugged(tree, id_=None, index="1")]
    assert [each.qom_path for each in devices] == [f"/machine/peripheral-anon/device[{number}]" for number in (0, 1)]
    devices[0].unrealize()
    assert list(tree.peripheral_anon.children) == ["device[1]"]
    assert [node.subject for node in bus.devices] == [devices[1]]
    assert plugged(tree, id_=None, index="2").qom_path.endswith("device[0]")


def test_device_that_cannot_be_plugged_leaves_its_place() -> None:
    tree = ObjectTree()
    machine = make_context()
    device = IsaSerial(props(IsaSerial, index="9"), machine.ctx, "com")
    place(tree, device)
    with pytest.raises(UsageError):
        device.plug()
    assert list(tree.peripheral.children) == []


def test_clock_shows_the_guests_time() -> None:
    tree = ObjectTree()
    machine = make_context(host_ns=1_700_000_000 * 1_000_000_000)  # 2023-11-14 22:13:20
    rtc = Mc146818Rtc(props(Mc146818Rtc), machine.ctx)
    place(tree, rtc)
    rtc.plug()
    assert tree.resolve("/machine/unattached/device[0]").get("date") == {
        "tm_year": 123, "tm_mon": 10, "tm_mday": 14, "tm_hour": 22, "tm_min": 13, "tm_sec": 20,
    }  # fmt: skip


def test_boot_indices_belong_to_one_device_each() -> None:
    indices = BootIndices()
    indices.claim("a", 1)
    indices.claim("b", None)
    with pytest.raises(UsageError, match="The bootindex 1 has already been used"):
        indices.claim("b", 1)
    indices.claim("a", 1)  # again its own
    indices.claim("a", 2)  # another: 1 is free
    indices.claim("b", 1)
    indices.release("a")
    indices.claim("c", 2)
    for owner in ("d", "e"):
        indices.claim(owner, -1)  # none


# --- vCPUs ------------------------------------------------------------------------------------------------------------


def cpu(model: str = "qemu64,+avx2,-nx", index: int = 0, **topology: int) -> Any:
    return CpuNodes(resolve(model, host(missing=("avx2",)), Topology(**topology)), "kvm-apic").make(index)


def test_cpu_shows_features_and_what_it_lacks() -> None:
    node = cpu()
    assert node.type_name == "qemu64-x86_64-cpu"
    shown = {name: node.get(name) for name in ("fpu", "nx", "xd", "avx2", "sse4-1", "sse4.1", "vmx")}
    assert shown == {
        "fpu": True,
        "nx": False,
        "xd": False,
        "avx2": False,
        "sse4-1": False,
        "sse4.1": False,
        "vmx": False,
    }
    assert node.get("unavailable-features") == ["avx2"]
    (filtered,) = [word for word in node.get("filtered-features") if word["features"]]
    assert filtered == {"cpuid-input-eax": 7, "cpuid-input-ecx": 0, "cpuid-register": "EBX", "features": 1 << 5}
    words = {(word["cpuid-input-eax"], word["cpuid-register"]): word["features"] for word in node.get("feature-words")}
    assert words[1, "EDX"] & 1
    assert not words[0x8000_0001, "EDX"] & 1 << 20
    with pytest.raises(
        UsageError, match=r"Attempt to set property 'nx' on anonymous device \(type 'qemu64-x86_64-cpu'\)"
    ):
        node.set("xd", True)
    with pytest.raises(UsageError, match=r"'qemu64-x86_64-cpu\.unavailable-features' is not writable"):
        node.set("unavailable-features", [])


def test_cpu_shows_its_place() -> None:
    node = cpu(index=5, sockets=2, dies=1, cores=3, threads=2)
    assert [node.get(name) for name in ("socket-id", "die-id", "core-id", "thread-id", "apic-id")] == [0, 0, 2, 1, 5]
    assert node.children["lapic"].type_name == "kvm-apic"


def test_every_property_of_a_cpu_has_a_value_of_its_type() -> None:
    kinds = {"bool": bool, "string": str, "strList": list, "X86CPUFeatureWordInfo": list}
    for model in ("qemu64", "host"):
        node = cpu(model)
        declared = list(cpu_properties(model))
        assert len({each.name for each in declared}) == len(declared)
        for each in declared:
            assert type(node.get(each.name)) is kinds.get(each.type, int), each
    assert "migratable" not in cpu("qemu64").properties


# --- the machine ------------------------------------------------------------------------------------------------------


def test_machine_shows_its_options() -> None:
    tree = ObjectTree()
    line = "-machine pc,mem-merge=off,pit=off -m 64,slots=2,maxmem=1G -smp 2,maxcpus=4 -bios b -nodefaults"
    describe_machine(tree, parse([*line.split(), "-boot", "order=dc,once=n,menu=on"]))
    node = tree.machine
    assert node.get("type").endswith("-machine")
    shown = {name: node.get(name) for name in ("mem-merge", "pit", "firmware", "kernel", "memory-backend")}
    assert shown == {"mem-merge": False, "pit": "off", "firmware": "b", "kernel": "", "memory-backend": ""}
    assert node.get("boot") == {"order": "dc", "once": "n", "menu": True}
    assert node.get("memory") == {"size": 64 << 20, "max-size": 1 << 30, "slots": 2}
    assert (node.get("smp")["cpus"], node.get("smp")["maxcpus"]) == (2, 4)
    with pytest.raises(UsageError, match="is not writable"):
        node.set("kernel", "x")
