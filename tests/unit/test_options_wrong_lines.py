# SPDX-License-Identifier: Apache-2.0
"""Wrong command lines: each gives exactly one clear sentence. The lines stand in the .txt beside this file, words
separated by single spaces, each followed by its sentence.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from vmmd.errors import UsageError, VmmdError
from vmmd.options import availability
from vmmd.options.cmdline import parse

#: a line, then, indented, the sentence that follows "vmmd: "
WRONG = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8")


def _pairs() -> list[tuple[str, str]]:
    lines = WRONG.splitlines()
    return [(lines[i], lines[i + 1].strip()) for i in range(0, len(lines), 2)]


@pytest.mark.parametrize(("line", "sentence"), _pairs(), ids=[line for line, _ in _pairs()])
def test_wrong_line(line, sentence):
    with pytest.raises(UsageError) as caught:
        parse(line.split(" "))
    assert str(caught.value) == sentence
    assert sentence.isprintable()  # one line


def test_control_characters_of_the_user_do_not_reach_the_terminal():
    with pytest.raises(UsageError) as caught:
        parse(["-machine", "pc,usb=\x1b[2J\nok"])
    assert str(caught.value) == "-machine usb=\\x1b[2J\\nok: 'usb' takes 'on' or 'off'"


LATER = """\
-vnc 127.0.0.1:0
-netdev vde,id=n0
-nic user
-device cirrus-vga
-device e1000
-object iothread,id=io0,thread-pool-min=4
-object tls-creds-x509,id=t0,dir=/x
-chardev udp,id=a,port=1
-chardev null,id=a,mux=on
-chardev socket,id=a,path=/x,server=on,wait=off,telnet=on
-serial mon:stdio
-machine usb=on
-machine smm=on
-machine nvdimm=on
-accel kvm,thread=multi
-accel kvm,tb-size=64
-blockdev driver=file,filename=/x,node-name=n,aio-max-batch=8
-object memory-backend-file,id=m,size=128M,mem-path=/x,readonly=on
-accel tcg
-overcommit cpu-pm=on
-sandbox on
-incoming defer
-loadvm x
-snapshot
-drive if=none,id=d,format=qcow2,file=a.img
-drive if=none,id=d,file=nbd:localhost:10809
-drive if=none,id=d,file=a.img,snapshot=on
-drive if=none,id=d,file=rbd:vms/x
-drive if=none,id=d,file=a.img,bps=1000
-drive if=none,id=d,file=a.img,throttling.iops-total=5
-drive if=none,id=d,file=a.img,detect-zeroes=unmap
-blockdev driver=file,filename=/x,node-name=n,detect-zeroes=on
-drive if=none,id=d,file=a.img,aio=native
-blockdev driver=qcow2,node-name=a,file=b
-blockdev driver=raw,node-name=a,file.driver=nbd,file.host=x
-numa node -numa node
-numa dist,src=0,dst=1,val=20
-vga std
-display gtk
-display vnc=:1
-display gtk,gl=on
-k de
-usb
-gdb tcp::1234
-s
-smbios type=41
-boot splash=x.bmp
-audiodev alsa,id=a
-runas nobody
-chroot /x
-fsdev local,id=f
"""


@pytest.mark.parametrize("line", LATER.splitlines())
def test_what_a_later_version_brings_is_refused_by_name(line):
    config = parse(["-nodefaults", *line.split(" ")])
    with pytest.raises(UsageError) as caught:
        availability.check(config)
    sentence = str(caught.value)
    last_option = "-" + line.rpartition(" -")[2].split(" ")[0].lstrip("-")
    assert sentence.startswith(last_option)
    assert sentence.endswith(": not available in this version")


#: lines that QEMU 7.2 refuses as well, and the words of its message that must be in ours
PHRASES = (
    ("-foo", "invalid option"),
    ("-device", "requires an argument"),
    ("-machine pc,usb", "Expected '=' after parameter 'usb'"),
    ("-machine nix", "unsupported machine type"),
    ("-m 128,foo=1", "Invalid parameter 'foo'"),
    ("-m 128,slots=3", "slots specified but no max-size"),
    ("-boot aa", "Boot device 'a' was given twice"),
    ("-chardev foo,id=a", "'foo' is not a valid char driver name"),
    ("-chardev null,id=1a", "Parameter 'id' expects an identifier"),
    ("-chardev null,id=a -chardev null,id=a", "Duplicate ID 'a' for chardev"),
    ("-chardev null,id=a -mon chardev=a,pretty=on", "'pretty' is not compatible with HMP monitors"),
    ("-chardev null,id=a -mon chardev=a -mon chardev=a,mode=control", "Device 'a' is in use"),
    ("-mon chardev=x", 'chardev "x" not found'),
    ("-uuid x", "failed to parse UUID string: wrong format"),
    ("-smbios type=99", "Don't know how to build fields for SMBIOS type 99"),
    ("-object memory-backend-ram,id=a", "Parameter 'size' is missing"),
    ("-blockdev driver=null-co", "'node-name' must be specified for the root node"),
    ("-machine pc -smp 300", "Invalid SMP CPUs 300. The max CPUs supported by machine 'pc-i440fx-7.2' is 255"),
    ("-machine pc -smp 4,sockets=2,cores=1,threads=1,maxcpus=4", "product of the hierarchy must match maxcpus"),
    ("-add-fd fd=1,set=0", "fd cannot be a standard I/O stream"),
)


@pytest.mark.parametrize(("line", "phrase"), PHRASES)
def test_key_phrase_is_ours(line, phrase):
    with pytest.raises(VmmdError) as caught:
        parse(line.split(" "))
    assert phrase in str(caught.value)


@pytest.mark.qemu
@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="no qemu-system-x86_64")
@pytest.mark.parametrize(("line", "phrase"), PHRASES)
def test_key_phrase_is_qemus(line, phrase):
    words = ["qemu-system-x86_64", "-nodefaults", "-display", "none"]
    words += ([] if "-machine" in line else ["-machine", "none"]) + line.split(" ")
    done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 1
    assert phrase in done.stderr
