# SPDX-License-Identifier: Apache-2.0
"""The command lines that vmmd must understand: the user's, and libvirt 9.0's."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from vmmd.errors import UsageError
from vmmd.options import availability
from vmmd.options.backends import BlockdevFile, BlockdevRaw, ChardevFile, ChardevPty, ChardevSocket
from vmmd.options.cmdline import parse
from vmmd.options.netdevs import NetdevTap
from vmmd.options.objects import Secret
from vmmd.units import GiB, MiB

#: the user's line as it was handed over: line breaks added, values with spaces not quoted
SEED_TEXT = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8")
#: an option starts with a dash behind white space; its argument reaches to the next one
SEED = [
    word
    for pair in re.findall(r"\s(-[A-Za-z-]+)(?:[ \n]+(?!-)(.*?))?[ \n]*(?=\s-[a-zA-Z]|$)", SEED_TEXT)
    for word in pair
    if word
]


LIBVIRT = shlex.split(
    """
-name guest=instance-00000001,debug-threads=on -S
-object '{"qom-type":"secret","id":"masterKey0","format":"raw","file":"/var/lib/libvirt/qemu/master-key.aes"}'
-machine pc-i440fx-7.2,usb=off,dump-guest-core=off -accel kvm -cpu qemu64,cx16=off,xsave=off
-m size=1048576k,slots=64,maxmem=67108864k -overcommit mem-lock=off
-smp 1,maxcpus=64,sockets=64,dies=1,cores=1,threads=1
-object '{"qom-type":"memory-backend-ram","id":"ram-node0","size":1073741824}'
-numa node,nodeid=0,cpus=0-63,memdev=ram-node0 -uuid 6a0b8f1e-3c74-4d0a-9a2e-0c9f6d2f5b11
-smbios 'type=1,manufacturer=OpenStack Foundation,version=13.1.4,family=Virtual Machine'
-no-user-config -nodefaults -chardev socket,id=charmonitor,fd=31,server=on,wait=off
-mon chardev=charmonitor,id=monitor,mode=control -rtc base=utc,driftfix=slew
-global kvm-pit.lost_tick_policy=delay -no-hpet -no-shutdown -boot strict=on
-device '{"driver":"piix3-usb-uhci","id":"usb","bus":"pci.0","addr":"0x1.0x2"}'
-device '{"driver":"virtio-serial-pci","id":"virtio-serial0","bus":"pci.0","addr":"0x4"}'
-blockdev '{"driver":"file","filename":"/var/lib/vm/disk0.raw","node-name":"libvirt-2-storage",
"cache":{"direct":true,"no-flush":false},"auto-read-only":true,"discard":"unmap"}'
-blockdev '{"node-name":"libvirt-2-format","read-only":false,"cache":{"direct":true,"no-flush":false},
"driver":"raw","file":"libvirt-2-storage"}'
-device '{"driver":"virtio-blk-pci","bus":"pci.0","addr":"0x5","drive":"libvirt-2-format","id":"virtio-disk0",
"bootindex":1,"write-cache":"on"}'
-netdev '{"type":"tap","fd":"32","id":"hostnet0"}'
-device '{"driver":"virtio-net-pci","netdev":"hostnet0","id":"net0","mac":"fa:16:3e:11:22:33","bus":"pci.0"}'
-add-fd set=0,fd=30,opaque=serial0-source -chardev file,id=charserial0,path=/dev/fdset/0,append=on
-device '{"driver":"isa-serial","chardev":"charserial0","id":"serial0","index":0}'
-chardev pty,id=charserial1 -device '{"driver":"isa-serial","chardev":"charserial1","id":"serial1","index":1}'
-chardev socket,id=charchannel0,fd=29,server=on,wait=off
-device '{"driver":"virtserialport","bus":"virtio-serial0.0","nr":1,"chardev":"charchannel0","id":"channel0"}'
-device '{"driver":"usb-tablet","id":"input0","bus":"usb.0","port":"1"}'
-audiodev '{"id":"audio1","driver":"none"}' -vnc 127.0.0.1:0,password=on,audiodev=audio1 -k en-us
-device '{"driver":"cirrus-vga","id":"video0","bus":"pci.0","addr":"0x2"}'
-device '{"driver":"virtio-balloon-pci","id":"balloon0","bus":"pci.0","addr":"0x7"}'
-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny -msg timestamp=on
"""
)

PROBE = shlex.split(
    """
-S -no-user-config -nodefaults -nographic -machine none,accel=kvm:tcg
-qmp unix:/var/lib/libvirt/qemu/qmp-9014Y3/qmp.monitor,server=on,wait=off
-pidfile /var/lib/libvirt/qemu/qmp-9014Y3/qmp.pid -daemonize
"""
)


def test_seed_line_machine_part():
    config = parse(SEED)
    assert (config.name.guest, config.name.debug_threads) == ("instance-000439eb", True)
    assert config.paused
    assert config.nodefaults
    assert config.no_shutdown
    assert not config.no_reboot
    assert (config.machine.type, config.machine.usb) == ("pc-i440fx-2.5", False)
    assert [accel.accel for accel in config.accels] == ["kvm"]
    assert config.cpu is not None
    assert config.cpu.startswith("IvyBridge,+ds,+acpi,")
    assert config.cpu.endswith(",+osxsave,+pdpe1gb")
    memory = config.memory
    assert (memory.size_bytes, memory.slots, memory.maxmem_bytes) == (GiB, 64, 256 * GiB)
    assert config.realtime is not None
    assert config.mem_lock is False
    smp = config.smp
    assert (smp.cpus, smp.maxcpus, smp.sockets, smp.dies, smp.cores, smp.threads) == (1, 64, 64, 1, 1, 1)
    (node,) = config.numa
    assert (node.nodeid, node.cpus, node.mem_bytes) == (0, tuple(range(64)), 1024 * MiB)
    assert config.uuid == "2178112f-1e08-4a0b-b495-3bcc8faf3d59"
    assert (config.rtc.base, config.rtc.driftfix) == ("utc", "slew")
    assert config.globals == [("kvm-pit", "lost_tick_policy", "discard")]
    assert config.boot.strict is True
    assert config.msg_timestamp is True
    assert config.notices == []


def test_seed_line_smbios():
    (system,) = parse(SEED).smbios
    assert system.number == 1
    assert system.values == {
        "manufacturer": "OpenStack Foundation",
        "product": "OpenStack Nova",
        "version": "2013.2-netease.910",
        "serial": "44454c4c-3900-1057-8032-b6c04f373232",
        "uuid": "2178112f-1e08-4a0b-b495-3bcc8faf3d59",
    }


def test_seed_line_backends_and_devices():
    config = parse(SEED)
    system, config_drive = config.drives
    assert system.file == (
        "rbd:vms/2178112f-1e08-4a0b-b495-3bcc8faf3d59_disk:auth_supported=none:mon_host="
        "10.180.0.47\\:6789\\;10.180.0.48\\:6789\\;10.180.0.49\\:6789"
    )  # the backslashes are for the rbd driver
    assert (system.id, system.interface, system.format, system.cache) == ("drive-virtio-disk0", "none", "raw", "none")
    assert config_drive.read_only is True
    assert list(config.chardevs) == ["charserial0", "charserial1", "charchannel0", "charmonitor"]
    console, pty, agent, monitor = config.chardevs.values()
    assert isinstance(console, ChardevFile)
    assert console.path == "/data/nova/instances/2178112f-1e08-4a0b-b495-3bcc8faf3d59/console.log"
    assert isinstance(pty, ChardevPty)
    assert isinstance(agent, ChardevSocket)
    assert isinstance(monitor, ChardevSocket)
    assert (monitor.server, monitor.wait, monitor.waits) == (True, False, False)
    (mon,) = config.monitors
    assert (mon.chardev, mon.mode, mon.id, mon.pretty) == ("charmonitor", "control", "monitor", False)
    (tap,) = config.netdevs
    assert isinstance(tap, NetdevTap)
    assert (tap.fd, tap.vhost, tap.vhostfd) == ("179", True, "183")
    assert config.vnc is not None
    assert (config.vnc.display, config.vnc.password) == ("10.180.0.47:64", True)
    assert config.keyboard == "en-us"
    disk = config.devices[0]
    assert (disk.driver, disk.id, disk.bus) == ("virtio-blk-pci", "virtio-disk0", "pci.0")
    assert disk.items == [("scsi", "off"), ("addr", "0x5"), ("drive", "drive-virtio-disk0"), ("bootindex", "1")]
    assert len(config.devices) == 11


def test_seed_line_refused_things_by_name():
    assert list(availability.refusals(parse(SEED))) == [
        "-drive id=drive-virtio-disk0,file=rbd:",
        "-drive id=drive-virtio-disk25,file=rbd:",
        "-vnc 10.180.0.47:64",
        "-device usb-tablet",
        "-device cirrus-vga",
        "-device piix3-usb-uhci",
    ]


def test_refusal_is_one_sentence():
    with pytest.raises(UsageError) as caught:
        availability.check(parse(["-nodefaults", "-device", "cirrus-vga,id=video0"]))
    assert str(caught.value) == "-device cirrus-vga: not available in this version"


def test_libvirt_line():
    config = parse(LIBVIRT)
    secret, ram = config.objects
    assert isinstance(secret, Secret)
    assert secret.file == "/var/lib/libvirt/qemu/master-key.aes"
    assert ram.size_bytes == GiB
    storage, image = config.blockdevs
    assert isinstance(storage, BlockdevFile)
    assert (storage.cache_direct, storage.cache_no_flush, storage.auto_read_only) == (True, False, True)
    assert storage.discard == "unmap"
    assert isinstance(image, BlockdevRaw)
    assert (image.file, image.node_name, image.read_only) == ("libvirt-2-storage", "libvirt-2-format", False)
    disk = config.devices[2]
    assert disk.is_json
    assert ("bootindex", 1) in disk.items
    assert ("write-cache", "on") in disk.items
    assert config.machine.hpet is False
    assert config.machine.dump_guest_core is False
    monitor = config.chardevs["charmonitor"]
    assert isinstance(monitor, ChardevSocket)
    assert (monitor.fd, monitor.server, monitor.wait) == ("31", True, False)
    (fdset,) = config.add_fds
    assert (fdset.set, fdset.fd, fdset.opaque) == (0, 30, "serial0-source")
    assert config.audiodevs[0].id == "audio1"
    assert config.sandbox is not None
    assert config.sandbox.enable is True
    assert next(availability.refusals(config)) == "-sandbox enable=on"


def test_libvirt_probe_line():
    config = parse(PROBE)
    availability.check(config)
    assert config.machine.type == "none"
    assert [accel.accel for accel in config.accels] == ["kvm", "tcg"]
    assert config.daemonize
    assert config.pidfile == "/var/lib/libvirt/qemu/qmp-9014Y3/qmp.pid"
    (mon,) = config.monitors
    assert mon.mode == "control"
    socket = config.chardevs[mon.chardev]
    assert isinstance(socket, ChardevSocket)
    assert (socket.path, socket.server, socket.waits) == ("/var/lib/libvirt/qemu/qmp-9014Y3/qmp.monitor", True, False)
    assert config.serials == []


def test_tcg_only_is_refused():
    with pytest.raises(UsageError, match=r"^-accel tcg: not available in this version$"):
        availability.check(parse(["-nodefaults", "-machine", "none,accel=tcg"]))


def test_order_of_options_does_not_matter():
    pairs, words, i = [], SEED, 0
    switches = {"-S", "-no-user-config", "-nodefaults", "-no-shutdown"}
    while i < len(words):
        step = 1 if words[i] in switches else 2
        pairs.append(words[i : i + step])
        i += step
    backwards = parse([word for pair in reversed(pairs) for word in pair])
    forwards = parse(SEED)
    assert backwards.chardevs == forwards.chardevs
    assert list(reversed(backwards.devices)) == forwards.devices
    assert backwards.machine == forwards.machine


@pytest.mark.parametrize(
    "line",
    [
        "-accel kvm -cpu qemu64,-cx16,-pni,-xsave -nodefaults -display none -m 64 -serial stdio"
        " -qmp unix:/run/q,server=on,wait=off -kernel bench.elf -append x -S",
        "-nodefaults -display none -m 64 -bios tinybios.bin",
        "-nodefaults -chardev null,id=dc -device isa-debugcon,iobase=0xe9,chardev=dc"
        " -blockdev driver=null-co,node-name=n0,size=67108864 -device virtio-blk-pci,drive=n0",
        "-nodefaults -blockdev driver=null-co,node-name=n0,size=1073741824,read-zeroes=off",
        "-nodefaults -blockdev driver=file,node-name=n0,filename=/d,cache.direct=on,aio=io_uring,locking=off",
        "-nodefaults -chardev file,id=dbg,path=/f -drive if=none,id=d0,file=/i,format=raw,readonly=on"
        " -device virtio-blk-pci,drive=d0",
        "-nodefaults -machine pc,pit=off -vga none -m 128 -cpu qemu64,-cx16,-pni,-xsave -display none -no-reboot"
        " -serial stdio -bios u-boot.rom -drive file=disk.img,if=virtio,format=raw",
        "-nodefaults -machine pc,graphics=off -m 64 -serial null",
    ],
)
def test_lines_of_bench_and_guests_are_available(line):
    config = parse(line.split())
    availability.check(config)
    assert config.notices == []
