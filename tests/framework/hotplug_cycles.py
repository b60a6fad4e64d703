# SPDX-License-Identifier: Apache-2.0
"""Plugs every kind of PCI device there is into a guest that runs and lets go of them, over and over, and looks at what
is left. The guest is a boot sector that answers requests, one slot every 50 ms; slots have eight functions, so that
many devices come and go in one round."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.framework import guests
from tests.framework.qmp import QmpError
from tests.framework.scenarios import FIRMWARE_TIMEOUT_S, machine_args
from tests.framework.vm import Emulator, Vm
from vmmd.core.registry import all_device_classes

if TYPE_CHECKING:
    from pathlib import Path

    from tests.framework.qmp import Qmp

SLOTS = (8, 9, 10)
FUNCTIONS = 8
#: rounds before it is looked for the first time: modules are imported, caches filled
WARM_ROUNDS = 3
GONE_TIMEOUT_S = 120.0
SETTLE_TIMEOUT_S = 30.0
#: of these a machine has one
SINGLE = ("virtio-balloon-pci", "i6300esb")


class Kind(NamedTuple):
    """A type of device, and the backend that it needs: commands that make and delete it, with {id} for its name."""

    driver: str
    backend: str = ""


class Left(NamedTuple):
    """What a process has of the host, and what its monitor shows."""

    fds: int
    threads: int
    devices: tuple[str, ...]
    functions: int
    disks: int
    nodes: int


@dataclass
class Cycles:
    """What came of it; ``faults`` is empty when all is as it was."""

    kinds: list[str]
    cycles: int = 0
    seconds: float = 0.0
    add_s: list[float] = field(default_factory=list)
    gone_s: list[float] = field(default_factory=list)  # of a round: from the first device_del to the last event
    rss_bytes: int = 0
    growth_bytes: float = 0.0  # for each cycle of the second half: what keeps the last thousands of events is full then
    faults: list[str] = field(default_factory=list)


def pluggable() -> list[Kind]:
    """Every type of PCI device that may be plugged."""
    kinds = []
    for name, cls in sorted(all_device_classes().items()):
        if cls.user_creatable and cls.bus_type == "PCI":
            backend = next((each for part, each in (("blk", "drive"), ("net", "netdev")) if f"-{part}-" in name), "")
            kinds.append(Kind(name, backend))
    return kinds


def plug_and_unplug(program: Emulator, directory: Path, *, cycles: int, kinds: list[Kind] | None = None) -> Cycles:
    """At least ``cycles`` devices come and go."""
    chosen = pluggable() if kinds is None else kinds
    run = Cycles([each.driver for each in chosen])
    image = guests.acpi_bootsector_disk().copy_to(directory)
    with Vm(program, [*machine_args(64), "-drive", f"file={image},format=raw,if=virtio"]) as vm:
        vm.serial.expect("VMMD-TEST-GUEST up", FIRMWARE_TIMEOUT_S)
        chosen = [_without_netdev(each, vm.qmp) for each in chosen]
        supply = cycle(chosen)
        for _ in range(WARM_ROUNDS):
            _round(vm.qmp, run, list(islice(supply, len(SLOTS) * FUNCTIONS)))
        before = _left(vm)
        run.cycles, run.add_s, run.gone_s = 0, [], []
        began = time.monotonic()
        half_way = 0, vm.rss_bytes()
        while run.cycles < cycles:
            _round(vm.qmp, run, list(islice(supply, len(SLOTS) * FUNCTIONS)))
            if run.cycles < cycles // 2:
                half_way = run.cycles, vm.rss_bytes()
        run.seconds = time.monotonic() - began
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        while (after := _left(vm)) != before and time.monotonic() < deadline:
            time.sleep(0.05)  # threads for one call end by themselves
        if after != before:
            run.faults.append(f"before: {before}; after: {after}")
        run.growth_bytes = (vm.rss_bytes() - half_way[1]) / (run.cycles - half_way[0])
        run.rss_bytes = vm.rss_bytes()
        run.faults += [f"told of: {each}" for each in _strange(vm.qmp)]
    return run


def _without_netdev(kind: Kind, qmp: Qmp) -> Kind:
    """A NIC does without where there are no netdevs at run time."""
    if kind.backend != "netdev" or {"name": "netdev_add"} in qmp.cmd("query-commands"):
        return kind
    return kind._replace(backend="")


def _round(qmp: Qmp, run: Cycles, kinds: list[Kind]) -> None:
    """Fill the slots, each from its last function to its first, and empty them."""
    plugged: list[tuple[str, Kind]] = []
    riders: list[str] = []  # that go with what they sit on
    singles: set[str] = set()
    places = [(slot, function) for slot in SLOTS for function in reversed(range(FUNCTIONS))]
    for (slot, function), wanted in zip(places, kinds, strict=True):
        single = next((each for each in SINGLE if wanted.driver.startswith(each)), None)
        kind = Kind("virtio-rng-pci") if single in singles else wanted
        if single is not None:
            singles.add(single)
        id_ = f"d{slot}-{function}"
        _make_backend(qmp, kind, id_)
        arguments: dict[str, Any] = {"driver": kind.driver, "id": id_, "addr": f"{slot:x}.{function}"}
        if kind.backend:
            arguments[kind.backend] = f"b{id_}"
        began = time.perf_counter()
        qmp.cmd("device_add", {**arguments, "multifunction": function == 0})
        run.add_s.append(time.perf_counter() - began)
        plugged.append((id_, kind))
        if "-serial-" in kind.driver:
            riders += _plug_ports(qmp, run, id_)
    began = time.perf_counter()
    for id_, _ in plugged:
        try:
            qmp.cmd("device_del", {"id": id_})
        except QmpError as error:  # the guest has let go of the whole slot for another function's sake
            if error.error_class != "DeviceNotFound" and "already in the process of unplug" not in error.desc:
                raise
    waiting = {*riders, *(id_ for id_, _ in plugged)}
    while waiting:
        event = qmp.wait_event("DEVICE_DELETED", GONE_TIMEOUT_S)
        waiting.discard(event["data"].get("device", ""))
    run.gone_s.append(time.perf_counter() - began)
    for id_, kind in plugged:
        _delete_backend(qmp, kind, id_)
    run.cycles += len(plugged)


def _plug_ports(qmp: Qmp, run: Cycles, id_: str) -> list[str]:
    """A port and a console on a bus that has just come; the console goes with it."""
    qmp.cmd("chardev-add", {"id": f"c{id_}", "backend": {"type": "null", "data": {}}})
    port, console = f"p{id_}", f"v{id_}"
    qmp.cmd("device_add", {"driver": "virtserialport", "id": port, "bus": f"{id_}.0", "name": port})
    qmp.cmd("device_add", {"driver": "virtconsole", "id": console, "bus": f"{id_}.0", "chardev": f"c{id_}"})
    qmp.cmd("device_del", {"id": port})
    assert qmp.wait_event("DEVICE_DELETED", GONE_TIMEOUT_S)["data"]["device"] == port
    run.cycles += 2
    return [console]


def _make_backend(qmp: Qmp, kind: Kind, id_: str) -> None:
    if kind.backend == "drive":
        qmp.cmd("blockdev-add", {"driver": "null-co", "node-name": f"b{id_}"})
    elif kind.backend == "netdev":
        qmp.cmd("netdev_add", {"type": "hubport", "hubid": 0, "id": f"b{id_}"})


def _delete_backend(qmp: Qmp, kind: Kind, id_: str) -> None:
    if kind.backend == "drive":
        qmp.cmd("blockdev-del", {"node-name": f"b{id_}"})
    elif kind.backend == "netdev":
        qmp.cmd("netdev_del", {"id": f"b{id_}"})
    elif "-serial-" in kind.driver:
        qmp.cmd("chardev-remove", {"id": f"c{id_}"})


def _left(vm: Vm) -> Left:
    from pathlib import Path

    process = Path(f"/proc/{vm.pid}")
    return Left(
        len(list((process / "fd").iterdir())),
        len(list((process / "task").iterdir())),
        tuple(each["name"] for each in vm.qmp.cmd("qom-list", {"path": "/machine/peripheral"})),
        len(vm.qmp.cmd("query-pci")[0]["devices"]),
        len(vm.qmp.cmd("query-block")),
        len(vm.qmp.cmd("query-named-block-nodes", {"flat": True})),
    )


def _strange(qmp: Qmp) -> list[str]:
    """Events that nobody expects here."""
    return [each["event"] for each in qmp.events if each["event"] not in ("DEVICE_DELETED", "NIC_RX_FILTER_CHANGED")]
