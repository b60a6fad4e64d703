# SPDX-License-Identifier: Apache-2.0
"""Wrong command lines given to the real process: one clear line, status 1, and nothing left behind.

``@RUN@`` is an empty directory; after the run it must be empty again. ``@OK@`` stands for options that are right and
would create a socket, a console log and a pid file, so that an error found late shows.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OK = (
    "-nodefaults -display none -S -pidfile @RUN@/pid -chardev file,id=log,path=@RUN@/console.log "
    "-chardev socket,id=mon,path=@RUN@/monitor.sock,server=on,wait=off -mon chardev=mon,mode=control"
)

#: command line, and what its one line on stderr must contain
WRONG = [
    ("-foo", "-foo: invalid option"),
    ("-m", "-m: requires an argument"),
    ("@OK@ -m 12x", "size=12x"),
    ("@OK@ -m size=1G,slots=x", "slots"),
    ("@OK@ -m 64,maxmem=32M", "maxmem"),
    ("@OK@ -smp 0", "-smp"),
    ("@OK@ -smp 4,sockets=3", "-smp"),
    ("@OK@ -smp cpus=2,maxcpus=1", "maxcpus"),
    ("@OK@ -machine pc-i440fx-9.9", "pc-i440fx-9.9"),
    ("@OK@ -machine q35", "q35"),
    ("@OK@ -machine pc,usbb=off", "usbb"),
    ("@OK@ -machine pc,usb=maybe", "usb"),
    ("@OK@ -accel tcg", "tcg"),
    ("@OK@ -cpu NoSuchCpu", "NoSuchCpu"),
    ("@OK@ -cpu qemu64,+nosuchfeature", "nosuchfeature"),
    ("@OK@ -device no-such-device", "no-such-device"),
    ("@OK@ -device virtio-blk-pc,drive=d", "did you mean"),
    ("@OK@ -device cirrus-vga", "-device cirrus-vga: not available in this version"),
    ("@OK@ -device isa-serial,chardev=nope", "nope"),
    ("@OK@ -device isa-serial,chardev=log,iobase=banana", "iobase"),
    ("@OK@ -device isa-serial,chardev=log,nosuch=1", "isa-serial.nosuch"),
    ("@OK@ -device isa-serial,chardev=mon", "mon"),
    ("@OK@ -device isa-serial,chardev=log -device isa-debugcon,chardev=log", "log"),
    ("@OK@ -device virtio-blk-pci,drive=nodrive", "nodrive"),
    ("@OK@ -device virtio-blk-pci", "drive"),
    ("@OK@ -blockdev driver=null-co,node-name=n -device virtio-blk-pci,drive=n,addr=0x20", "addr"),
    ("@OK@ -blockdev driver=null-co,node-name=n -device virtio-blk-pci,drive=n,addr=1", "slot 1 function 0"),
    ("@OK@ -blockdev driver=null-co,node-name=n -device virtio-blk-pci,drive=n,bus=pci.7", "pci.7"),
    ("@OK@ -drive file=@RUN@/absent.img,if=none,id=d,format=raw -device virtio-blk-pci,drive=d", "absent.img"),
    ("@OK@ -drive file=x,if=none,id=d,format=qcow2", "qcow2"),
    ("@OK@ -drive file=x,if=none,id=d,cache=fast", "cache"),
    ("@OK@ -blockdev driver=file,node-name=n", "filename"),
    ("@OK@ -blockdev {bad", "-blockdev"),
    ("@OK@ -chardev socket,id=s", "path"),
    ("@OK@ -chardev socket,id=s,path=@RUN@/no/such/dir/s,server=on,wait=off", "no/such/dir"),
    ("@OK@ -chardev file,id=f,path=@RUN@/no/such/dir/f", "no/such/dir"),
    ("@OK@ -chardev file,id=log,path=@RUN@/again", "log"),
    ("@OK@ -chardev nosuch,id=c", "nosuch"),
    ("@OK@ -mon chardev=absent,mode=control", "absent"),
    ("@OK@ -monitor mon:stdio", "mon:stdio"),
    ("@OK@ -netdev tap,id=n0,fd=77", "77"),
    ("@OK@ -netdev vde,id=n0", "vde"),
    ("@OK@ -vnc :1", "-vnc"),
    ("@OK@ -uuid 1234", "1234"),
    ("@OK@ -rtc base=yesterday", "yesterday"),
    ("@OK@ -boot order=q", "order"),
    ("@OK@ -smbios type=99", "99"),
    ("@OK@ -smbios type=1,nosuch=x", "nosuch"),
    ("@OK@ -global PIIX4_PM.nosuch=1", "nosuch"),
    ("@OK@ -global kvm-pit.lost_tick_policy=perhaps", "perhaps"),
    ("@OK@ -object memory-backend-ram,id=m,size=0", "size"),
    ("@OK@ -object memory-backend-ram,id=m,size=64M -machine memory-backend=other", "other"),
    ("@OK@ -kernel @RUN@/absent-kernel", "absent-kernel"),
    ("@OK@ -kernel /etc/passwd", "/etc/passwd"),
    ("@OK@ -initrd /etc/passwd", "-initrd"),
    ("@OK@ -append x", "-append"),
    ("@OK@ -bios /etc/passwd", "/etc/passwd"),
    ("@OK@ -bios no-such-bios.bin", "no-such-bios.bin"),
    ("@OK@ -pidfile @RUN@/no/such/pid", "no/such/pid"),
    ("@OK@ disk.img", "disk.img"),
]


@pytest.mark.kvm
@pytest.mark.parametrize(("line", "needle"), WRONG, ids=[f"{n:02d}-{w[1][:30]}" for n, w in enumerate(WRONG)])
def test_wrong_command_line_is_one_line_status_1_and_no_trace(line: str, needle: str, tmp_path: Path) -> None:
    words = line.replace("@OK@", OK).replace("@RUN@", str(tmp_path)).split()
    done = subprocess.run(
        [sys.executable, "-m", "vmmd", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 1, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("vmmd: ")
    assert needle in lines[0]
    assert done.stdout == ""
    assert os.listdir(tmp_path) == []
