# SPDX-License-Identifier: Apache-2.0
"""``query-chardev`` file names: QEMU's and vmmd's for the same options, before and after a client has connected."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import threading

import pytest

from tests.unit.select_loop import SelectLoop
from vmmd.chardev import create
from vmmd.options.cmdline import parse

QEMU = shutil.which("qemu-system-x86_64")
pytestmark = [pytest.mark.qemu, pytest.mark.skipif(QEMU is None, reason="qemu-system-x86_64 is not installed")]

CASES = (
    "null", "file,path={dir}/f", "pty", "ringbuf,size=1024", "socket,path={dir}/{who}.u,server=on,wait=off",
    "socket,path={dir}/{who}.u,server,nowait", "socket,host=127.0.0.1,port=0,server=on,wait=off",
    "socket,host=localhost,port=0,ipv4,server=on,wait=off,nodelay=on", "socket,host=::1,port=0,server=on,wait=off",
    "socket,host=,port=0,ipv4=on,server=on,wait=off", "socket,path=vmmd-{who}-abstract,abstract=on,server=on,wait=off",
    "socket,path=vmmd-{who}-wide,abstract=on,tight=off,server=on,wait=off", "socket,path={dir}/none,reconnect=60",
    "socket,host=127.0.0.1,port=1,reconnect=60",
)  # fmt: skip


def normal(text, who):
    """Numbers that differ from run to run are the same."""
    text = re.sub(r"(pts/|\d:|]:|\.1:|\.0:)\d+", r"\1N", text)
    return text.replace(f"{who}.u", "who.u").replace(f"vmmd-{who}", "vmmd-who")


def connect_to(filename):
    """A client of the server that the file name describes, or None."""
    if "abstract" in filename or not filename.startswith("disconnected:") or "server=on" not in filename:
        return None
    address = filename.removeprefix("disconnected:").removesuffix(",server=on")
    if address.startswith("unix:"):
        client = socket.socket(socket.AF_UNIX)
        client.connect(address.removeprefix("unix:"))
        return client
    host, _, port = address.removeprefix("tcp:").rpartition(":")
    return socket.create_connection((host, int(port)))


def qemus_names(spec, directory):
    path = f"{directory}/qmp"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        command = [QEMU, "-machine", "none", "-nodefaults", "-display", "none", "-S", "-qmp", f"unix:{path}"]
        process = subprocess.Popen([*command, "-chardev", spec], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        listener.settimeout(20)
        connection, _ = listener.accept()
    try:
        with connection, connection.makefile("rw") as monitor:
            monitor.readline()

            def execute(name):
                monitor.write(json.dumps({"execute": name}) + "\n")
                monitor.flush()
                while "return" not in (reply := json.loads(monitor.readline())):
                    pass
                return reply["return"]

            def name():
                return next(each["filename"] for each in execute("query-chardev") if each["label"] == "c")

            execute("qmp_capabilities")
            names = [name()]
            client = connect_to(names[0])
            if client is not None:
                with client:
                    while (now := name()).startswith("disconnected:"):
                        pass
                    names.append(now)
            return names
    finally:
        process.terminate()
        process.wait(10)


def our_names(spec):
    loop = SelectLoop()
    chardev = create(parse(["-chardev", spec]).chardevs["c"], loop, threading.Lock())
    chardev.open()
    try:
        names = [chardev.filename]
        client = connect_to(names[0])
        if client is not None:
            with client:
                loop.until(lambda: chardev.connected)
                names.append(chardev.filename)
        return names
    finally:
        chardev.close()


@pytest.mark.parametrize("case", CASES)
def test_file_names_agree(case, tmp_path):
    if "::1" in case and not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    kind, _, rest = case.partition(",")
    spec = f"{kind},id=c" + (f",{rest}" if rest else "")
    us, them = f"vmmd{os.getpid()}", f"qemu{os.getpid()}"  # abstract names are shared by the whole machine
    theirs = qemus_names(spec.format(dir=tmp_path, who=them), tmp_path)
    ours = our_names(spec.format(dir=tmp_path, who=us))
    assert [normal(each, us) for each in ours] == [normal(each, them) for each in theirs]
