# SPDX-License-Identifier: Apache-2.0
"""A real libvirt 9.0 and the devices of a guest on a network: an interface on a bridge, the guest agent's channel, a
balloon and entropy; and a disk and an interface attached to a guest that runs, and detached from it."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import pytest

from tests.clients.test_libvirt import UUID, run, wrapper
from tests.framework import guests

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.kvm, pytest.mark.libvirt, pytest.mark.network]

__all__ = ["wrapper"]  # a fixture
BRIDGE = "ip link add virbr7 type bridge && ip link set virbr7 up"
INTERFACE = """
<interface type='bridge'>
  <source bridge='virbr7'/><target dev='{tap}'/><mac address='{mac}'/><model type='virtio'/><driver name='qemu'/>
</interface>
"""
MAC, SECOND_MAC = "52:54:00:00:00:01", "52:54:00:00:00:02"
DOMAIN = """
<domain type='kvm'>
  <name>probe</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>64</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <features><acpi/><apic/></features>
  <cpu mode='host-passthrough'/>
  <devices>
    <emulator>{emulator}</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/><source file='{disk}'/><target dev='vda' bus='virtio'/>
    </disk>
    <controller type='usb' model='none'/>
    {interface}
    <serial type='file'><source path='{serial}'/><target port='0'/></serial>
    <channel type='unix'>
      <source mode='bind' path='{channel}'/><target type='virtio' name='org.qemu.guest_agent.0'/>
    </channel>
    <console type='pty'><target type='virtio' port='1'/></console>
    <memballoon model='virtio'><stats period='5'/></memballoon>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
  </devices>
</domain>
"""
DISK = """
<disk type='file' device='disk'>
  <driver name='qemu' type='raw'/><source file='{disk}'/><target dev='vdb' bus='virtio'/>
</disk>
"""


def ports(text: str) -> list[str]:
    """The names in what `ip -o link` prints."""
    return re.findall(r"^\d+: ([^:@]+)", text, re.MULTILINE)


def test_a_guest_with_a_network_gets_and_gives_back_devices(wrapper: Path, tmp_path: Path) -> None:
    serial, plugged = tmp_path / "serial.log", tmp_path / "plugged.img"
    plugged.write_bytes(bytes(1 << 20))
    disk = guests.acpi_bootsector_disk().copy_to(tmp_path)
    files = {
        "domain": DOMAIN.format(
            emulator=wrapper, disk=disk, serial=serial, uuid=UUID, channel=tmp_path / "agent.sock",
            interface=INTERFACE.format(tap="tap7", mac=MAC),
        ),
        "disk": DISK.format(disk=plugged),
        "interface": INTERFACE.format(tap="tap8", mac=SECOND_MAC),
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / f"{name}.xml").write_text(text)
    guest_up = f"until grep -q 'VMMD-TEST-GUEST up' {serial}; do sleep 0.2; done"
    agent = f"test -S {tmp_path / 'agent.sock'} && echo socket"
    members = "ip -o link show master virbr7"
    xml = "virsh dumpxml probe"
    steps = [
        BRIDGE, f"virsh define {tmp_path / 'domain.xml'}", "virsh start probe", guest_up, members, agent,
        "virsh domiflist probe", "virsh domifstat probe tap7", "virsh dommemstat probe", "virsh domstats probe",
        "virsh domif-setlink probe tap7 down", "virsh domif-setlink probe tap7 up",
        "virsh setmem probe 32768", "virsh setmem probe 65536", "virsh qemu-monitor-command probe --hmp info balloon",
        f"virsh attach-device probe {tmp_path / 'disk.xml'}", f"virsh attach-device probe {tmp_path / 'interface.xml'}",
        f"{xml}  # attached", f"{members}  # attached",
        f"virsh detach-device probe {tmp_path / 'disk.xml'}", f"virsh detach-device probe {tmp_path / 'interface.xml'}",
        f"{xml}  # detached", f"{members}  # detached",
        "virsh shutdown probe --mode acpi", "until virsh domstate probe | grep 'shut off'; do sleep 0.2; done",
    ]  # fmt: skip
    session = run(tmp_path, *steps)
    outputs = session.outputs
    assert ports(outputs[members]) == ["tap7"]
    assert outputs[agent].strip() == "socket"
    assert re.search(rf"^\s*tap7\s+bridge\s+virbr7\s+virtio\s+{MAC}$", outputs["virsh domiflist probe"], re.MULTILINE)
    assert "rx_bytes" in outputs["virsh domifstat probe tap7"]
    assert "actual 65536" in outputs["virsh dommemstat probe"]
    assert "net.0.name=tap7" in outputs["virsh domstats probe"]
    assert "actual=64" in outputs["virsh qemu-monitor-command probe --hmp info balloon"]
    attached, detached = (ET.fromstring(outputs[f"{xml}  # {state}"]) for state in ("attached", "detached"))
    assert [each.get("dev") for each in attached.findall("devices/disk/target")] == ["vda", "vdb"]
    assert [each.get("address") for each in attached.findall("devices/interface/mac")] == [MAC, SECOND_MAC]
    assert ports(outputs[f"{members}  # attached"]) == ["tap7", "tap8"]
    assert [each.get("dev") for each in detached.findall("devices/disk/target")] == ["vda"]
    assert [each.get("address") for each in detached.findall("devices/interface/mac")] == [MAC]
    assert ports(outputs[f"{members}  # detached"]) == ["tap7"]
    (channel,) = detached.findall("devices/channel/target")
    assert channel.get("state") == "disconnected"  # this guest has no agent
    assert session.complaints == []
