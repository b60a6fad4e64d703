# SPDX-License-Identifier: Apache-2.0
"""Looks at an emulator as libvirt 9.0 does before it uses one: the process and the conversation, as recorded.

The order is that of a real libvirt with QEMU 7.2 on KVM (with QOM types of SEV and SGX, of which vmmd has none, it asks
two commands more). libvirt leaves out device-list-properties for types that qom-list-types does not list; here all are
asked, so that the refusals are seen too.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.framework.vm import CPU_CLOCK_OF_PROCESS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Exchange = tuple[str, dict[str, Any]]

DEVICES = (
    "virtio-blk-pci", "virtio-net-pci", "virtio-scsi-pci", "virtio-net-ccw", "virtio-scsi-ccw", "vfio-pci", "scsi-hd",
    "ide-hd", "PIIX4_PM", "usb-redir", "usb-storage", "kvm-pit", "VGA", "vmware-svga", "qxl", "virtio-gpu-pci",
    "virtio-gpu-device", "ICH9-LPC", "virtio-balloon-pci", "virtio-balloon-ccw", "virtio-balloon-device", "intel-iommu",
    "mch", "nvdimm", "pcie-root-port", "usb-host", "vhost-user-fs-device", "virtio-mem-pci", "virtio-iommu-pci",
)  # fmt: skip
_HOST_UNMIGRATABLE = {"name": "host", "props": {"migratable": False}}
_HOST_HYPERV = {"name": "host", "props": {"migratable": False, "hv-passthrough": True}}

SEQUENCE: tuple[Exchange, ...] = (
    ("qmp_capabilities", {}),
    ("query-version", {}),
    ("query-target", {}),
    ("query-qmp-schema", {}),
    ("query-commands", {}),
    ("query-kvm", {}),
    ("qom-list-types", {}),
    *(("device-list-properties", {"typename": name}) for name in DEVICES),
    ("qom-list-properties", {"typename": "memory-backend-file"}),
    ("qom-list-properties", {"typename": "memory-backend-memfd"}),
    ("qom-list-properties", {"typename": "max-x86_64-cpu"}),
    ("query-machines", {}),
    ("qom-list-properties", {"typename": "none-machine"}),
    ("query-cpu-definitions", {}),
    ("query-tpm-models", {}),
    ("query-tpm-types", {}),
    ("query-command-line-options", {}),
    ("query-migrate-capabilities", {}),
    ("query-cpu-model-expansion", {"type": "static", "model": {"name": "host"}}),
    ("query-cpu-model-expansion", {"type": "static", "model": _HOST_UNMIGRATABLE}),
    ("query-cpu-model-expansion", {"type": "full", "model": _HOST_HYPERV}),
)


class Probe(NamedTuple):
    """What a probe found, and what it took."""

    replies: list[tuple[Exchange, dict[str, Any]]]
    start_ms: float  # until the parent has ended and its output with it
    talk_ms: float
    end_ms: float  # from SIGTERM to the end
    cpu_ms: float  # processor time of all of it
    stderr: str

    @property
    def total_ms(self) -> float:
        return self.start_ms + self.talk_ms + self.end_ms


def probe(command: Sequence[str], directory: Path, **popen: Any) -> Probe:
    """Start, ask everything in order, end by SIGTERM. ``popen``: for subprocess.Popen."""
    socket_path, pid_path = directory / "qmp.monitor", directory / "qmp.pid"
    used_before_s = _children_cpu_s()
    started = time.monotonic()
    errors = _start(command, socket_path, pid_path, popen)
    ready = time.monotonic()
    pid = int(pid_path.read_text())
    pidfd = os.pidfd_open(pid)
    try:
        replies = _talk(socket_path)
        talked = time.monotonic()
        cpu_s = _cpu_s(pid) + _children_cpu_s() - used_before_s
        talked_at = time.monotonic()
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        assert select.select([pidfd], [], [], 10)[0], "SIGTERM does not end it"
        ended = time.monotonic()
    except BaseException:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        raise
    finally:
        os.close(pidfd)
    times = [1e3 * span for span in (ready - started, talked - ready, ended - talked_at, cpu_s)]
    return Probe(replies, times[0], times[1], times[2], times[3], errors)


def _start(command: Sequence[str], socket_path: Path, pid_path: Path, popen: dict[str, Any]) -> str:
    argv = [*command, "-S", "-no-user-config", "-nodefaults", "-nographic", "-machine", "none,accel=kvm:tcg"]
    argv += ["-qmp", f"unix:{socket_path},server=on,wait=off", "-pidfile", str(pid_path), "-daemonize"]
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **popen
    )
    # the end of both outputs, then of the process: a daemon that kept them open would hold libvirt up
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert output == ""
    return str(errors)


def _talk(path: Path) -> list[tuple[Exchange, dict[str, Any]]]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(30)
        sock.connect(str(path))
        stream = sock.makefile("rb")
        assert "QMP" in _line(stream)
        replies = []
        for number, (name, arguments) in enumerate(SEQUENCE, 1):
            request: dict[str, Any] = {"execute": name, "id": f"libvirt-{number}"}
            if arguments:
                request["arguments"] = arguments
            sock.sendall(json.dumps(request, separators=(",", ":")).encode() + b"\r\n")
            reply = _line(stream)
            assert reply["id"] == request["id"]
            replies.append(((name, arguments), reply))
    return replies


def _line(stream: Any) -> dict[str, Any]:
    line = stream.readline()
    assert line.endswith(b"\r\n"), "libvirt waits for CR and LF"
    message = json.loads(line)
    assert isinstance(message, dict)
    return message


def _cpu_s(pid: int) -> float:
    """Processor time of all threads so far, also of those that have ended."""
    return time.clock_gettime((~pid << 3) | CPU_CLOCK_OF_PROCESS)


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
