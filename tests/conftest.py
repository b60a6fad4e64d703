# SPDX-License-Identifier: Apache-2.0
"""Options, markers and the count of KVM tests.

`--run-slow` runs tests marked `slow`. Tests marked `kvm` are skipped where /dev/kvm cannot be opened, tests marked
`qemu` where QEMU is not installed, tests marked `libvirt` where libvirt is not, tests marked `network` where no
network namespace with a tap can be made; the summary always says how many KVM tests ran and how many were skipped, and
the same of libvirt and network.
"""

from __future__ import annotations

import os
import shutil
from functools import cache
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.framework.network import Network, network_problem
from tests.framework.vm import emulator
from vmmd.log import _configured

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _pytest.terminal import TerminalReporter

#: the same examples each time, others with VMMD_RANDOM=1; how long one takes says nothing on a machine that others use
settings.register_profile("vmmd", deadline=None, derandomize=os.environ.get("VMMD_RANDOM") != "1")
settings.load_profile("vmmd")

MARKERS = (
    "kvm: needs /dev/kvm",
    "qemu: needs Debian's qemu-system-x86_64 to compare with",
    "libvirt: needs root, libvirtd, virtlogd and virsh",
    "network: needs root and /dev/net/tun, for a network namespace of its own",
    "slow: longer than a minute; run with --run-slow",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --run-slow."""
    parser.addoption("--run-slow", action="store_true", default=False, help="also run tests marked slow")


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers."""
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    _configured("vmmd")  # the first message of a process does that: caplog would not see it


@cache
def kvm_problem() -> str | None:
    """Why /dev/kvm cannot be opened, or None."""
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"/dev/kvm: {error.strerror}"
    return None


@cache
def libvirt_problem() -> str | None:
    """Why no libvirt can be started, or None."""
    missing = [name for name in ("libvirtd", "virtlogd", "virsh") if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed"
    return None if os.geteuid() == 0 else "libvirt needs root"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what cannot run here."""
    for item in items:
        problem = kvm_problem() if "kvm" in item.keywords else None
        if problem is not None:
            item.add_marker(pytest.mark.skip(reason=problem))
        elif "libvirt" in item.keywords and libvirt_problem() is not None:
            item.add_marker(pytest.mark.skip(reason=str(libvirt_problem())))
        elif "network" in item.keywords and network_problem() is not None:
            item.add_marker(pytest.mark.skip(reason=str(network_problem())))
        elif "qemu" in item.keywords and not emulator("qemu").installed:
            item.add_marker(pytest.mark.skip(reason="QEMU is not installed"))
        elif "slow" in item.keywords and not config.getoption("--run-slow"):
            item.add_marker(pytest.mark.skip(reason="slow: use --run-slow"))


@pytest.fixture
def network() -> Iterator[Network]:
    """A network of the test's own; use with the marker `network`."""
    with Network() as made:
        yield made


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Count the KVM, libvirt and network tests: one that was skipped must not look like one that passed."""

    def count(marker: str, *outcomes: str) -> int:
        reports = [report for outcome in outcomes for report in terminalreporter.stats.get(outcome, [])]
        return len({report.nodeid for report in reports if marker in getattr(report, "keywords", ())})

    for marker, name in (("kvm", "KVM"), ("libvirt", "libvirt"), ("network", "network")):
        ran, skipped = count(marker, "passed", "failed", "error", "xfailed", "xpassed"), count(marker, "skipped")
        if marker == "kvm" or ran or skipped:
            terminalreporter.write_line(f"{name} tests: {ran} ran, {skipped} skipped")
