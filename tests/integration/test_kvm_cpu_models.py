# SPDX-License-Identifier: Apache-2.0
"""CPU models against QEMU here: what it gives to KVM_SET_CPUID2 (a preloaded ioctl sees it), and its warnings."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.integration import kvm_guest
from vmmd.kvm.cpu_help import help_text
from vmmd.kvm.cpuid import CpuConfig, Topology, cpu_model_names, resolve
from vmmd.kvm.host_cpu import HostCpu
from vmmd.kvm.system import Kvm

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.kvm,
    pytest.mark.qemu,
    pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc for the preloaded observer"),
]

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <linux/kvm.h>
static int (*real)(int, unsigned long, ...);
int ioctl(int fd, unsigned long request, ...) {
    va_list list; va_start(list, request); void *argument = va_arg(list, void *); va_end(list);
    if (!real) real = dlsym(RTLD_NEXT, "ioctl");
    if (request == KVM_SET_CPUID2) {
        FILE *file = fopen(getenv("SHIM_OUT"), "a");
        struct kvm_cpuid2 *cpuid = argument;
        fprintf(file, "vcpu %d\n", fd);
        for (unsigned i = 0; i < cpuid->nent; i++) {
            struct kvm_cpuid_entry2 *e = &cpuid->entries[i];
            fprintf(file, "%x %x %x %x %x %x\n", e->function, e->index, e->eax, e->ebx, e->ecx, e->edx);
        }
        fclose(file);
    }
    return real(fd, request, argument);
}
"""

Leaves = dict[tuple[int, int], tuple[int, int, int, int]]
SINGLE = Topology()
SMT = Topology(1, 1, 2, 2)
#: the guests' CPU of this machine, and what the seed's command line asks for (vmx alone is looked at separately)
GUESTS = "qemu64,-cx16,-pni,-xsave"
SEED = "IvyBridge,+ds,+acpi,+ss,+ht,+tm,+pbe,+dtes64,+monitor,+ds_cpl,+smx,+est,+tm2,+xtpr,+pdcm,+pcid,+dca,+pdpe1gb"

CASES = [
    (GUESTS, SINGLE, (7, 2)),
    (GUESTS, SMT, (2, 5)),
    (SEED, Topology(64, 1, 1, 1), (2, 5)),
    (SEED, SMT, (7, 2)),
    ("kvm64", SINGLE, (7, 2)),
    ("base,+lm,+pse36", SINGLE, (7, 2)),
    ("host,-arch-capabilities", Topology(1, 1, 2, 1), (7, 2)),
    ("host,-arch-capabilities,migratable=off,host-phys-bits-limit=40", SINGLE, (7, 2)),
    ("IvyBridge,vendor=GenuineIntel", Topology(1, 2, 2, 1), (7, 2)),
    ("IvyBridge,vendor=GenuineIntel", Topology(1, 1, 3, 2), (7, 2)),
    ("EPYC", SMT, (7, 2)),
    ("EPYC", SMT, (2, 12)),
    ("EPYC-Milan,l3-cache=off", Topology(2, 1, 2, 1), (7, 2)),
    ("Skylake-Server", SINGLE, (3, 1)),
    ("Opteron_G3", SINGLE, (2, 5)),
    ("qemu64,phys-bits=36,family=20,model=17,stepping=3,model-id=x,-hypervisor,kvm=off,level=20", SINGLE, (7, 2)),
]


class Seen(NamedTuple):
    vcpus: list[Leaves]
    messages: list[str]


class Observer:
    """Starts QEMU with -S and looks at what it tells KVM."""

    def __init__(self, folder: Path) -> None:
        self.library = folder / "shim.so"
        self.output = folder / "shim.txt"
        (folder / "shim.c").write_text(SHIM)
        command = ["gcc", "-shared", "-fPIC", "-O1", "-o", self.library, folder / "shim.c", "-ldl"]
        subprocess.run(command, check=True, timeout=60)

    def start(self, cpu: str, topology: Topology, machine: tuple[int, int]) -> Seen:
        self.output.write_text("")
        sockets, dies, cores, threads = topology
        count = min(sockets * dies * cores * threads, 6)
        # QEMU wants cpus == product unless maxcpus is given; the vCPUs that exist at start are enough to compare
        smp = f"{count},maxcpus={sockets * dies * cores * threads},sockets={sockets},dies={dies},cores={cores}"
        arguments = ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-accel", "kvm", "-m", "16", "-S"]
        arguments += ["-monitor", "stdio", "-cpu", cpu, "-smp", f"{smp},threads={threads}"]
        arguments += ["-machine", f"pc-i440fx-{machine[0]}.{machine[1]}"]
        environment = {**os.environ, "LD_PRELOAD": str(self.library), "SHIM_OUT": str(self.output)}
        done = subprocess.run(
            arguments, input="quit\n", capture_output=True, text=True, env=environment, timeout=60, check=False
        )
        vcpus: dict[str, Leaves] = {}
        for line in self.output.read_text().splitlines():
            if line.startswith("vcpu"):
                current = vcpus[line] = {}
                continue
            leaf, index, *registers = (int(number, 16) for number in line.split())
            if any(registers) or leaf == 7:
                current[(leaf, index)] = (registers[0], registers[1], registers[2], registers[3])
        return Seen(list(vcpus.values()), re.findall(r"warning: (.*requested feature.*|Host phys.*)", done.stderr))


@pytest.fixture(scope="module")
def observer(tmp_path_factory: pytest.TempPathFactory) -> Observer:
    return Observer(tmp_path_factory.mktemp("observer"))


@pytest.fixture(scope="module")
def host() -> HostCpu:
    kvm = Kvm.open()
    try:
        return HostCpu.read(kvm)
    finally:
        kvm.close()


def ours(config: CpuConfig, index: int, tsc_khz: int) -> Leaves:
    return {
        (entry.function, entry.index): (entry.eax, entry.ebx, entry.ecx, entry.edx)
        for entry in config.cpuid(index, tsc_khz)
    }


@pytest.mark.parametrize(("cpu", "topology", "machine"), CASES)
def test_leaves_and_warnings_equal_qemus(
    observer: Observer, host: HostCpu, cpu: str, topology: Topology, machine: tuple[int, int]
) -> None:
    seen = observer.start(cpu, topology, machine)
    assert seen.vcpus, "QEMU did not start"
    config = resolve(cpu, host, topology, machine)
    for index, theirs in enumerate(seen.vcpus):
        tsc_khz = theirs.get((0x40000010, 0), (2_000_000,))[0]
        assert ours(config, index, tsc_khz) == theirs, f"vCPU {index}"
    warnings = [text for text in config.warnings if "hyperthreading" not in text]
    assert warnings == list(dict.fromkeys(seen.messages))


def test_vmx_is_warned_about_as_qemu_does(observer: Observer, host: HostCpu) -> None:
    # QEMU goes on with a warning for each bit of the VMX capability MSRs, which vmmd leaves to KVM
    warning = "host doesn't support requested feature: CPUID.01H:ECX.vmx [bit 5]"
    theirs = warning in observer.start("IvyBridge,+vmx", SINGLE, (7, 2)).messages
    assert (warning in resolve("IvyBridge,+vmx", host).warnings) is theirs


@pytest.mark.slow
def test_every_model_equals_qemus(observer: Observer, host: HostCpu) -> None:
    different = []
    for name in cpu_model_names():
        cpu = f"{name},-arch-capabilities" if name in ("host", "max") else name
        seen = observer.start(cpu, SINGLE, (7, 2))
        config = resolve(cpu, host, SINGLE, (7, 2))
        if seen.vcpus[:1] != [ours(config, 0, 2_000_000)] or config.warnings != seen.messages:
            different.append(name)
    assert different == []


def test_registers_at_reset_are_shown_as_by_qemu(host: HostCpu, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-accel", "kvm", "-m", "16", "-S"]
    command = [*arguments, "-monitor", "stdio", "-cpu", GUESTS]
    text = subprocess.run(
        command, input="info registers\nquit\n", capture_output=True, text=True, timeout=60, check=True
    ).stdout.replace("\r", "")
    theirs = text[text.index("CPU#0\n") + 6 : text.index("(qemu)", text.index("CPU#0\n"))].rstrip("\n")
    monkeypatch.setattr(kvm_guest, "PlainCpus", lambda kvm: resolve(GUESTS, host))
    vm = kvm_guest.TinyVm(b"\xf4")
    try:
        vm.cpus.set_boot_state(None)
        vm.cpus.reset()
        assert vm.cpus.registers_text(0).rstrip("\n") == theirs
    finally:
        vm.close()


def test_help_lists_the_models_as_qemu_does() -> None:
    text = subprocess.run(["qemu-system-x86_64", "-cpu", "help"], capture_output=True, text=True, check=True).stdout
    models = text[: text.index("\nRecognized")]
    assert help_text()[: len(models)] == models


def test_model_names_are_those_of_qemus_help() -> None:
    text = subprocess.run(["qemu-system-x86_64", "-cpu", "help"], capture_output=True, text=True, check=True).stdout
    theirs = re.findall(r"^x86 (\S+)", text, re.MULTILINE)
    assert sorted(cpu_model_names()) == sorted(theirs)
