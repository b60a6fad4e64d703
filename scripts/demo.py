#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Boots GRUB Legacy from a virtio disk under vmmd the way a manager would: paused, over QMP, console in a file.

Everything is made in a fresh directory, which is named at the start and kept when --keep is given.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

#: CPU flags that a KVM which emulates kernel code in software does not know; harmless on an ordinary host
CPU = "qemu64,-cx16,-pni,-xsave"
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|[\x00-\x09\x0b-\x1f]")


class Monitor:
    """Just enough QMP: one JSON object per line in both directions."""

    def __init__(self, path: Path, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + 20
        while True:
            self._socket = socket.socket(socket.AF_UNIX)
            try:
                self._socket.connect(str(path))
                break
            except OSError:
                self._socket.close()
                if process.poll() is not None or time.monotonic() > deadline:
                    sys.exit(f"vmmd did not start (status {process.poll()})")
                time.sleep(0.02)
        self._lines = self._socket.makefile("rb")
        print("<-", self._lines.readline().decode().strip())
        self.execute("qmp_capabilities")

    def execute(self, command: str) -> Any:
        request = json.dumps({"execute": command})
        print("->", request)
        self._socket.sendall(request.encode())
        while True:
            reply = json.loads(self._lines.readline())
            print("<-", json.dumps(reply))
            if "event" not in reply:
                return reply["return"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="keep the directory")
    options = parser.parse_args()
    from tests.framework.guests import grub_legacy_disk

    directory = Path(tempfile.mkdtemp(prefix="vmmd-demo-"))
    try:
        run(directory, grub_legacy_disk().path)
    finally:
        if not options.keep:
            shutil.rmtree(directory)


def run(directory: Path, disk: Path) -> None:
    console, monitor = directory / "console.log", directory / "monitor.sock"
    command = [
        sys.executable, "-m", "vmmd", "-name", "guest=demo,debug-threads=on", "-S",
        "-machine", "pc,accel=kvm,graphics=off", "-cpu", CPU, "-m", "64",
        "-nodefaults", "-display", "none", "-no-reboot",
        "-drive", f"file={disk},format=raw,if=none,id=disk0,readonly=on",
        "-device", "virtio-blk-pci,drive=disk0,bootindex=1",
        "-chardev", f"file,id=serial0,path={console}", "-device", "isa-serial,chardev=serial0",
        "-chardev", f"socket,id=mon0,path={monitor},server=on,wait=off", "-mon", "chardev=mon0,mode=control",
    ]  # fmt: skip
    print("$", " ".join(command), "\n")
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        qmp = Monitor(monitor, process)
        qmp.execute("query-status")
        qmp.execute("cont")
        qmp.execute("query-status")
        print(f"\n--- {console} ---", flush=True)
        follow(console, process, "booted automatically")
        print("\n---")
        qmp.execute("quit")
        print("vmmd ended with status", process.wait(10))
    finally:
        if process.poll() is None:
            process.kill()


def follow(console: Path, process: subprocess.Popen[bytes], until: str, seconds: float = 50) -> None:
    """Print what the guest writes, without terminal control sequences, until it shows ``until``."""
    shown, deadline = 0, time.monotonic() + seconds
    while time.monotonic() < deadline:
        text = ESCAPES.sub("", console.read_text(errors="replace"))
        sys.stdout.write(text[shown:])
        sys.stdout.flush()
        shown = len(text)
        if re.search(until, text):
            return
        if process.poll() is not None:
            sys.exit(f"vmmd ended with status {process.poll()}")
        time.sleep(0.1)
    sys.exit(f"the guest did not show /{until}/ within {seconds:.0f} s")


if __name__ == "__main__":
    main()
