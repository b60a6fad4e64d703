# SPDX-License-Identifier: Apache-2.0
"""The user's command line with addresses of this machine: what of it is built starts and works with a guest, and what
is not is refused by name, each alone. QEMU 7.2 has no -realtime and wants a controller first: no comparison."""

from __future__ import annotations

import os
import re
import subprocess
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.framework import cache, guests
from tests.framework.network import BRIDGE, Network
from tests.framework.scenarios import FIRMWARE_TIMEOUT_S
from tests.framework.vm import REPOSITORY, Vm, emulator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.kvm, pytest.mark.network]

NOT_YET = {
    "-vnc": "-vnc 127.0.0.1:64: not available in this version",
    "usb-tablet": "-device usb-tablet: not available in this version",
    "cirrus-vga": "-device cirrus-vga: not available in this version",
    "piix3-usb-uhci": "-device piix3-usb-uhci: not available in this version",
}
VHOST_NET = "/dev/vhost-net"
HAS_VHOST_NET = os.path.exists(VHOST_NET)
REFUSAL_TIMEOUT_S = 60
GUEST_UP = b"VMMD-TEST-GUEST up"
MAC = "fa:16:3e:38:e9:53"


def seed_words(directory: Path, tap_fd: int, vhost_fd: int) -> list[str]:
    """The line with the placeholders filled in, and raw files in place of the images in a Ceph cluster."""
    try:
        text = (cache.shared_folder() / "seed" / "command-line.local.txt").read_text(encoding="utf-8")
    except (cache.MissingSources, FileNotFoundError) as error:
        pytest.skip(str(error))
    for placeholder, value in (("@RUN@", directory), ("@TAPFD@", tap_fd), ("@VHOSTFD@", vhost_fd)):
        text = text.replace(placeholder, str(value))
    for name in ("disk", "disk.config"):
        text = re.sub(rf"file=rbd:\S+?_{re.escape(name)}:\S+?,format", f"file={directory / name}.img,format", text)
    pairs = re.findall(r"\s(-[A-Za-z-]+)(?:[ \n]+(?!-)(.*?))?[ \n]*(?=\s-[a-zA-Z]|$)", text)
    return [word for pair in pairs for word in pair if word]


def without(words: list[str], *unwanted: str) -> list[str]:
    """*words* without the options whose name or driver is among *unwanted*."""
    kept: list[str] = []
    rest = iter(words)
    for word in rest:
        if word in unwanted:
            next(rest)
            continue
        if kept and kept[-1] == "-device" and word.split(",")[0] in unwanted:
            kept.pop()
            continue
        kept.append(word)
    return kept


@pytest.fixture
def words(network: Network, tmp_path: Path) -> Iterator[tuple[list[str], list[int]]]:
    """The line, and the descriptors that it inherits. Where vhost-net is not there, /dev/null stands in its place."""
    (tap,) = network.open_tap()
    vhost = os.open(VHOST_NET if HAS_VHOST_NET else os.devnull, os.O_RDWR)
    disk = guests.acpi_bootsector_disk().path.read_bytes()
    for name in ("disk", "disk.config"):
        (tmp_path / f"{name}.img").write_bytes(disk)
    yield seed_words(tmp_path, tap, vhost), [tap, vhost]
    os.close(vhost)


def refusal(line: list[str], fds: list[int]) -> str:
    """What vmmd says, in one line, and nothing else."""
    done = subprocess.run(
        [*emulator("vmmd").command, *line], pass_fds=fds, timeout=REFUSAL_TIMEOUT_S, check=False, text=True,
        capture_output=True, env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize("option", NOT_YET)
def test_what_is_not_built_is_refused_by_name(words: tuple[list[str], list[int]], option: str) -> None:
    line, fds = words
    assert NOT_YET[option] in refusal(without(line, *(other for other in NOT_YET if other != option)), fds)


@pytest.mark.skipif(HAS_VHOST_NET, reason="/dev/vhost-net is there")
def test_a_descriptor_that_is_no_vhost_net_is_refused_by_name(words: tuple[list[str], list[int]]) -> None:
    line, fds = words
    assert f"vhostfd {fds[1]}: vhost_set_owner failed" in refusal(without(line, *NOT_YET), fds)


def test_the_rest_starts_and_works(words: tuple[list[str], list[int]], network: Network, tmp_path: Path) -> None:
    line, fds = words
    if not HAS_VHOST_NET:  # a manager has no descriptor of it then; vhost=on is left as a wish
        line = [word.replace(f",vhostfd={fds[1]}", "") for word in line]
    with Vm(emulator("vmmd"), without(line, *NOT_YET), pass_fds=fds, serial=False) as vm, ExitStack() as closing:
        qmp = vm.qmp
        assert HAS_VHOST_NET or "netdev hostnet0: tap: open vhost char device failed" in vm.stderr()
        assert qmp.cmd("query-status")["status"] == "prelaunch"
        assert qmp.cmd("query-name") == {"name": "instance-000439eb"}
        devices = {each["name"] for each in qmp.cmd("qom-list", path="/machine/peripheral")}
        assert devices >= {"net0", "virtio-serial0", "channel0", "balloon0", "serial0", "serial1", "virtio-disk0"}
        assert MAC in qmp.hmp("info network")
        assert qmp.cmd("query-balloon") == {"actual": 1 << 30}
        chardevs = {each["label"]: each for each in qmp.cmd("query-chardev")}
        assert chardevs["charserial1"]["filename"].startswith("pty:/dev/pts/")
        with vm.connect_unix(tmp_path / "guest_agent.sock"):
            connected = f"unix:{tmp_path / 'guest_agent.sock'}"  # "disconnected:…" without
            deadline = time.monotonic() + 30
            while not any(each["filename"].startswith(connected) for each in qmp.cmd("query-chardev")):
                assert time.monotonic() < deadline
        manager = vm.connect_qmp(tmp_path / "monitor.sock")
        closing.callback(manager.close)
        manager.cmd("cont")
        manager.wait_event("RESUME")
        console = tmp_path / "console.log"
        for _ in range(int(FIRMWARE_TIMEOUT_S / 0.1)):
            if GUEST_UP in console.read_bytes():
                break
            vm.reactor.wait(lambda: False, 0.1)  # nothing tells of a line in a file
        assert GUEST_UP in console.read_bytes()
        qmp.cmd("system_powerdown")
        assert qmp.wait_event("SHUTDOWN")["data"] == {"guest": True, "reason": "guest-shutdown"}
        qmp.wait_event("STOP")
        assert qmp.cmd("query-status")["status"] == "shutdown"  # -no-shutdown
        network.ip(f"link show master {BRIDGE}")
