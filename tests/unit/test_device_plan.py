# SPDX-License-Identifier: Apache-2.0
"""The devices of a command line before they are made: their order, the names of buses that they bring, and who uses
which character device."""

from __future__ import annotations

import pytest

from vmmd.errors import UsageError
from vmmd.machine.device_plan import BusNames, behind_their_buses, plan
from vmmd.machine.plan import MachinePlan
from vmmd.options.cmdline import parse

PORT, OTHER_PORT = "virtserialport,id=p0,bus=s0.0", "virtserialport,id=p1,bus=s1.0"
SERIAL, OTHER_SERIAL = "virtio-serial-pci,id=s0", "virtio-serial-pci,id=s1"
RNG, NAMELESS = "virtio-rng-pci,id=r0,bus=pci.0", "virtio-balloon-pci"
LOST = "virtserialport,id=p2,bus=nowhere.0"
CYCLE = ["virtio-serial-pci,id=a,bus=b.0", "virtio-serial-pci,id=b,bus=a.0"]


@pytest.mark.parametrize(
    ("line", "order"),
    [
        ([SERIAL, PORT, RNG], [SERIAL, PORT, RNG]),
        ([PORT, RNG, SERIAL, NAMELESS], [RNG, SERIAL, PORT, NAMELESS]),
        ([OTHER_PORT, PORT, SERIAL, OTHER_SERIAL], [SERIAL, PORT, OTHER_SERIAL, OTHER_PORT]),
        ([LOST, SERIAL], [LOST, SERIAL]),
        ([*CYCLE, RNG], [RNG, *CYCLE]),
        ([], []),
    ],
)
def test_a_device_follows_the_one_that_brings_its_bus(line: list[str], order: list[str]) -> None:
    given = {text: parse(["-nodefaults", "-device", text]).devices[0] for text in line}
    made = behind_their_buses(given.values())
    assert [next(text for text, options in given.items() if options is each) for each in made] == order


@pytest.mark.parametrize("id_", ["pci", "isa", "ide", "floppy-bus"])
def test_no_device_brings_a_bus_that_is_called_like_one_of_the_boards(id_: str) -> None:
    (options,) = parse(["-nodefaults", "-device", f"virtio-serial-pci,id={id_}"]).devices
    with pytest.raises(UsageError, match=f"Duplicate bus name '{id_}.0'; give the device another id"):
        plan(options, [])


def test_the_name_of_a_bus_is_free_again_when_its_device_has_gone() -> None:
    named, nameless = parse(
        ["-device", "virtio-serial-pci,id=virtio-serial-bus", "-device", "virtio-serial-pci"]
    ).devices
    buses = BusNames()
    first = plan(named, [], buses)
    buses.bring(first)
    with pytest.raises(UsageError, match=r"Duplicate bus name 'virtio-serial-bus\.0'; give the device an id"):
        plan(nameless, [], buses)
    buses.take_away(first)
    assert plan(nameless, [], buses).brings == "virtio-serial-bus.0"


@pytest.mark.parametrize("second", ["-netdev vhost-user,id=n1,chardev=c", "-device isa-serial,chardev=c,id=n1"])
def test_a_character_device_has_one_user(second: str) -> None:
    socket = "-chardev socket,id=c,path=/nowhere,server=on"
    line = f"-nodefaults {socket} -netdev vhost-user,id=n0,chardev=c {second}"
    with pytest.raises(UsageError, match="Device 'c' is in use; chardev c is used by netdev n0"):
        MachinePlan(parse(line.split())).check()
