# SPDX-License-Identifier: Apache-2.0
"""A real libvirt 9.0 that is told to use vmmd as its emulator (``scripts/with-libvirt``): what it believes vmmd can do,
and the life of a domain."""

from __future__ import annotations

import json
import subprocess
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.framework import serial_guest
from tests.framework.vm import REPOSITORY, Vm, emulator

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.kvm, pytest.mark.libvirt]

TIMEOUT_S = 120
#: what every libvirt without D-Bus, udev, DMI and cgroups logs
HARMLESS = (
    "virGDBusGetSystemBus", "networkStateInitialize", "udevGetDMIData", "dmidecode", "virSecurityManagerNew",
    "virNetDevSendEthtoolIoctl", "qemuDomainObjTaintMsg", "virCgroupDetectControllers",
)  # fmt: skip
DOMAIN = """
<domain type='kvm'>
  <name>probe</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>64</memory>
  <vcpu>2</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <features><acpi/><apic/></features>
  <cpu mode='host-passthrough'/>
  <devices>
    <emulator>{emulator}</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' cache='none'/><source file='{disk}'/><target dev='vda' bus='virtio'/>
    </disk>
    <controller type='usb' model='none'/>
    <serial type='file'><source path='{serial}'/><target port='0'/></serial>
    <memballoon model='none'/>
  </devices>
</domain>
"""
UUID = "14c6a37a-cc27-4a6d-b0fb-4384337bb530"


class Session(NamedTuple):
    """What the commands of one run of libvirt printed, by command, and its complaints."""

    outputs: dict[str, str]
    complaints: list[str]


def run(directory: Path, *commands: str) -> Session:
    """Run shell commands, virsh as a rule, beside a libvirt of their own. They must all succeed."""
    script = directory / "commands.sh"
    # a mark between outputs that no command prints
    script.write_text("set -e\n" + "".join(f"{command}\nprintf '\\036'\n" for command in commands))
    log = directory / "libvirtd.log"
    done = subprocess.run(
        [REPOSITORY / "scripts" / "with-libvirt", "sh", str(script)],
        capture_output=True, text=True, timeout=TIMEOUT_S, check=False, cwd="/",
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "VMMD_LIBVIRT_LOG": str(log), "VIRSH_DEFAULT_CONNECT_URI": "qemu:///system"},
    )  # fmt: skip
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    complaints = [
        line for line in lines
        if (": error : " in line or ": warning : " in line) and not any(word in line for word in HARMLESS)
    ]  # fmt: skip
    assert done.returncode == 0, (done.stdout[-2000:], done.stderr, complaints)
    return Session(dict(zip(commands, done.stdout.split("\036"), strict=False)), complaints)


@pytest.fixture(scope="module")
def wrapper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """vmmd as an executable file that needs nothing of the environment."""
    path = tmp_path_factory.mktemp("emulator") / "vmmd"
    command = " ".join(f"'{word}'" for word in emulator("vmmd").command)
    path.write_text(f'#!/bin/sh\nexport PYTHONPATH="{REPOSITORY}"\nexec {command} "$@"\n')
    path.chmod(0o755)
    return path


def domcapabilities(path: str, machine: str = "pc") -> str:
    return f"virsh domcapabilities --emulatorbin {path} --virttype kvm --machine {machine} --arch x86_64"


def values(tree: ET.Element, path: str) -> set[str]:
    return {element.text or "" for element in tree.findall(path)}


def test_libvirt_sees_what_is_there_and_nothing_else(wrapper: Path, tmp_path: Path) -> None:
    caps = "cat /var/cache/libvirt/qemu/capabilities/*.xml"
    session = run(tmp_path, domcapabilities(str(wrapper)), caps, domcapabilities(str(wrapper), "pc-i440fx-2.5"))
    assert session.complaints == []
    found = ET.fromstring(session.outputs[domcapabilities(str(wrapper))])
    assert [found.findtext(tag) for tag in ("path", "domain", "machine", "arch")] == [
        str(wrapper), "kvm", "pc-i440fx-7.2", "x86_64",
    ]  # fmt: skip
    assert [element.get("max") for element in found.findall("vcpu")] == ["255"]
    assert {mode.get("name") for mode in found.findall("cpu/mode") if mode.get("supported") == "yes"} == {
        "host-passthrough", "maximum", "host-model", "custom",
    }  # fmt: skip
    # ide, fdc and scsi, and floppies and CD-ROMs, are told of every emulator
    assert values(found, "devices/disk/enum[@name='bus']/value") == {"ide", "fdc", "scsi", "virtio"}
    assert values(found, "devices/graphics/enum[@name='type']/value") == set()
    assert values(found, "devices/video/enum[@name='modelType']/value") == {"none"}
    rng_models = {"virtio", "virtio-transitional", "virtio-non-transitional"}
    assert values(found, "devices/rng/enum[@name='model']/value") == rng_models
    assert values(found, "memoryBacking/enum[@name='sourceType']/value") == {"file", "anonymous", "memfd"}
    assert [element.get("supported") for element in found.findall("features/genid")] == ["yes"]
    for absent in ("devices/tpm", "devices/redirdev", "features/vmcoreinfo", "features/sev"):
        assert [element.get("supported") for element in found.findall(absent)] == ["no"], absent
    older = ET.fromstring(session.outputs[domcapabilities(str(wrapper), "pc-i440fx-2.5")])
    assert older.findtext("machine") == "pc-i440fx-2.5"
    machines = ET.fromstring(session.outputs[caps]).findall("machine")
    with Vm(emulator("vmmd"), ["-machine", "none", "-nodefaults"], serial=False) as vm:
        assert {each.get("name") for each in machines} - {"none"} == {
            each["name"] for each in vm.qmp.cmd("query-machines")
        } - {"none"}


@pytest.mark.qemu
def test_libvirt_sees_the_cpus_that_it_sees_with_qemu(wrapper: Path, tmp_path: Path) -> None:
    ours, theirs = domcapabilities(str(wrapper)), domcapabilities("/usr/bin/qemu-system-x86_64")
    session = run(tmp_path, ours, theirs)
    cpus = [list(map(ET.tostring, ET.fromstring(session.outputs[each]).findall("cpu"))) for each in (ours, theirs)]
    assert b"<model usable=" in cpus[0][0]
    assert cpus[0] == cpus[1]


def test_what_is_not_there_is_refused_with_vmmds_sentence(wrapper: Path, tmp_path: Path) -> None:
    disk, domain = tmp_path / "disk.img", tmp_path / "domain.xml"
    disk.write_bytes(bytes(1 << 20))
    text = DOMAIN.format(emulator=wrapper, disk=disk, serial=tmp_path / "serial.log", uuid=UUID)
    network = "<interface type='user'><model type='e1000'/></interface>"
    domain.write_text(text.replace("<memballoon", network + "<memballoon"))
    start = "virsh start probe 2>&1 && exit 1"
    session = run(tmp_path, f"virsh define {domain}", start)
    assert "-device e1000: not available in this version" in session.outputs[start]


def test_a_domain_lives_and_ends(wrapper: Path, tmp_path: Path) -> None:
    disk, serial = tmp_path / "disk.img", tmp_path / "serial.log"
    disk.write_bytes(bytes(1 << 20))
    domain = tmp_path / "domain.xml"
    domain.write_text(DOMAIN.format(emulator=wrapper, disk=disk, serial=serial, uuid=UUID))
    ask = "virsh qemu-monitor-command probe"
    status, kvm = f"{ask} '{json.dumps({'execute': 'query-status'})}'", f"{ask} --hmp info kvm"
    session = run(
        tmp_path, f"virsh define {domain}", "virsh start probe --paused", "virsh domstate probe", status,
        "virsh resume probe", "virsh domstate probe  # 2", kvm, "virsh domblkinfo probe vda",
        "virsh domblkstat probe vda", "virsh vcpuinfo probe", "virsh suspend probe", "virsh reset probe",
        "virsh resume probe  # 2", "virsh domstats probe --state --vcpu --block", "virsh destroy probe",
        "virsh domstate probe  # 3",
    )  # fmt: skip
    outputs = session.outputs
    assert outputs["virsh domstate probe"].strip() == "paused"
    assert json.loads(outputs[status])["return"]["running"] is False
    assert outputs["virsh domstate probe  # 2"].strip() == "running"
    assert "kvm support: enabled" in outputs[kvm]
    assert "1048576" in outputs["virsh domblkinfo probe vda"]
    assert outputs["virsh vcpuinfo probe"].count("VCPU:") == 2
    assert "vcpu.current=2" in outputs["virsh domstats probe --state --vcpu --block"]
    assert outputs["virsh domstate probe  # 3"].strip() == "shut off"
    assert session.complaints == []


CHANNELS = """
    <controller type='virtio-serial' index='0'/>
    <channel type='unix'>
      <source mode='bind' path='{directory}/agent'/><target type='virtio' name='org.qemu.guest_agent.0'/>
    </channel>
    <channel type='unix'>
      <source mode='bind' path='{directory}/command'/><target type='virtio' name='command'/>
    </channel>
    <console type='file'><source path='{directory}/hvc0.log'/><target type='virtio' port='1'/></console>
"""
#: has the guest open its first port, and hears an echo through it
TALK = """
import socket
def connect(name):
    made = socket.socket(socket.AF_UNIX); made.settimeout(60); made.connect("{directory}/" + name); return made
command, agent = connect("command"), connect("agent")
command.sendall(b"O"); assert command.recv(1) == b"o"
agent.sendall(b"\\xffhello"); print(agent.recv(6))
"""


def test_channels_of_a_domain_are_connected_when_the_guest_opens_them(wrapper: Path, tmp_path: Path) -> None:
    disk, talk, shown = tmp_path / "disk.img", tmp_path / "talk.py", tmp_path / "shown.xml"
    disk.write_bytes(bytes(1 << 20))
    talk.write_text(TALK.format(directory=tmp_path))
    text = DOMAIN.format(emulator=wrapper, disk=disk, serial=tmp_path / "serial.log", uuid=UUID)
    text = text.replace("</type></os>", f"</type><kernel>{serial_guest.kernel()}</kernel></os>")
    domain = tmp_path / "domain.xml"
    domain.write_text(text.replace("<memballoon", CHANNELS.format(directory=tmp_path) + "<memballoon"))
    look = "virsh dumpxml probe"
    # port 2, the commands, is opened by the guest itself
    wait = f"for i in $(seq 300); do {look} > {shown}; grep -q \"state='connected'\" {shown} && break; sleep 0.1; done"
    session = run(
        tmp_path, f"virsh define {domain}", "virsh start probe", wait, f"python3 {talk}", look, "virsh reset probe",
        f"{wait}  # 2", "virsh destroy probe",
    )  # fmt: skip
    assert session.outputs[f"python3 {talk}"].strip() == str(b"\xffhello")
    found = {
        target.get("name"): target.get("state")
        for target in ET.fromstring(session.outputs[look]).findall("devices/channel/target")
    }
    assert found == {"org.qemu.guest_agent.0": "connected", "command": "connected"}


def test_a_domain_with_a_balloon(wrapper: Path, tmp_path: Path) -> None:
    """What libvirt asks of the balloon: statistics every so often, the memory of the domain, and how it is now."""
    disk, domain = tmp_path / "disk.img", tmp_path / "domain.xml"
    disk.write_bytes(bytes(1 << 20))
    text = DOMAIN.format(emulator=wrapper, disk=disk, serial=tmp_path / "serial.log", uuid=UUID)
    balloon = (
        "<memballoon model='virtio' autodeflate='on' freePageReporting='on'>"
        "<alias name='ua-balloon'/><stats period='5'/></memballoon>"
    )
    domain.write_text(text.replace("<memballoon model='none'/>", balloon))
    path = "/machine/peripheral/ua-balloon"
    interval = {"path": path, "property": "guest-stats-polling-interval"}
    ask = "virsh qemu-monitor-command probe"
    stats = "virsh dommemstat probe"
    get, features = f"{ask} '{json.dumps({'execute': 'qom-get', 'arguments': interval})}'", f"{ask} --hmp info qtree"
    session = run(
        tmp_path, f"virsh define {domain}", "virsh start probe --paused", stats, get, features,
        "virsh setmem probe 32M --live", "virsh dommemstat probe --period 7 --live", f"{get}  # 2",
        "virsh domstats probe --balloon", "virsh destroy probe",
    )  # fmt: skip
    outputs = session.outputs
    assert f"actual {64 << 10}" in outputs[stats]
    assert "last_update 0" in outputs[stats]
    assert [json.loads(outputs[each])["return"] for each in (get, f"{get}  # 2")] == [5, 7]
    assert "deflate-on-oom = true" in outputs[features]
    assert "free-page-reporting = true" in outputs[features]
    assert f"balloon.current={64 << 10}" in outputs["virsh domstats probe --balloon"]
    assert session.complaints == []
