# SPDX-License-Identifier: Apache-2.0
"""What device_add and device_del make of their arguments before a machine sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.framework.qmp import Qmp, QmpError
from tests.unit.qmp_support import Monitor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmmd.options.models import DeviceOptions


class FakePlugger:
    def __init__(self) -> None:
        self.added: list[DeviceOptions] = []
        self.removed: list[str] = []

    async def add(self, options: DeviceOptions) -> None:
        self.added.append(options)

    async def remove(self, id_: str) -> None:
        self.removed.append(id_)


@pytest.fixture(scope="module")
def monitor() -> Iterator[Monitor]:
    with Monitor() as made:
        yield made


@pytest.fixture
def qmp(monitor: Monitor) -> Iterator[Qmp]:
    client = Qmp.connect(monitor.path)
    yield client
    client.close()


@pytest.fixture
def plugger(monitor: Monitor, monkeypatch: pytest.MonkeyPatch) -> FakePlugger:
    made: Any = FakePlugger()
    monkeypatch.setattr(monitor.vm, "plugger", made)
    return made


def test_all_other_members_are_properties_as_text(qmp: Qmp, plugger: FakePlugger) -> None:
    more = {"ctx": "x", "self": "y", "num-queues": 4, "config-wce": True, "scsi": False, "addr": 16, "ratio": 0.5}
    qmp.cmd("device_add", {"driver": "virtio-blk-pci", "id": "d0", "bus": "pci.0", **more})
    (made,) = plugger.added
    assert (made.driver, made.id, made.bus, made.is_json) == ("virtio-blk-pci", "d0", "pci.0", False)
    assert dict(made.items) == {
        "ctx": "x", "self": "y", "num-queues": "4", "config-wce": "on", "scsi": "off", "addr": "16", "ratio": "0.5",
    }  # fmt: skip


@pytest.mark.parametrize("value", [None, [], {}, {"a": 1}])
def test_a_value_that_is_no_text_is_refused(qmp: Qmp, plugger: FakePlugger, value: object) -> None:
    with pytest.raises(QmpError, match="Invalid parameter type for 'serial', expected: string"):
        qmp.cmd("device_add", {"driver": "virtio-blk-pci", "serial": value})
    assert not plugger.added


@pytest.mark.parametrize("id_", ["", "9x", "a b", "ä", "x/y"])
def test_an_id_is_an_identifier(qmp: Qmp, plugger: FakePlugger, id_: str) -> None:
    with pytest.raises(QmpError, match="Parameter 'id' expects an identifier"):
        qmp.cmd("device_add", {"driver": "virtio-blk-pci", "id": id_})
    assert not plugger.added


def test_a_machine_without_buses(qmp: Qmp) -> None:
    with pytest.raises(QmpError, match="No 'PCI' bus found for device 'virtio-blk-pci'"):
        qmp.cmd("device_add", {"driver": "virtio-blk-pci"})
    with pytest.raises(QmpError, match="'bogus' is not a valid device model name"):
        qmp.cmd("device_add", {"driver": "bogus"})
    with pytest.raises(QmpError, match="Device 'd0' not found") as refused:
        qmp.cmd("device_del", {"id": "d0"})
    assert refused.value.error_class == "DeviceNotFound"


def test_the_monitor_for_people_says_the_same(qmp: Qmp, plugger: FakePlugger) -> None:
    assert qmp.hmp("device_add virtio-blk-pci,id=d0,drive=a,,b,bus=pci.0 ") == ""
    (made,) = plugger.added
    assert (made.driver, made.id, made.bus, made.items) == ("virtio-blk-pci", "d0", "pci.0", [("drive", "a,b")])
    assert qmp.hmp("device_del d0") == ""
    assert plugger.removed == ["d0"]
    assert qmp.hmp("device_add driver=virtio-blk-pci,help").startswith("virtio-blk-pci options:\r\n")
    assert 'name "virtio-blk-pci", bus PCI' in qmp.hmp("device_add help")
    assert qmp.hmp("device_add nope,help").startswith("Error: ")
