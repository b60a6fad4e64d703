# SPDX-License-Identifier: Apache-2.0
"""Which accelerator is taken, what is said of those that are not, and what the queries tell under qtest."""

from __future__ import annotations

import subprocess

import pytest

from tests.framework.qtest import QmpFailure, Qtest, uses_kvm
from tests.framework.vm import emulator

#: options -> exit status and what stderr has to hold
FAILING = (
    (("-accel", "foo"), "-accel accel=foo: invalid accelerator foo; known are: kvm, qtest"),
    (("-accel", "tcg"), "-accel tcg: not available in this version"),
    (("-accel", "tcg", "-accel", "foo"), "-accel tcg: not available in this version"),
    (("-machine", "pc,accel=foo:bar"), "invalid accelerator foo"),
    (("-accel", "kvm:qtest"), "-accel kvm:qtest: invalid accelerator kvm:qtest; give -accel once for each"),
    (("-accel", "qtest,thread=single"), "-accel qtest: Property 'qtest-accel.thread' not found"),
    (("-accel", "qtest", "-machine", "accel=qtest"), 'The -accel and "-machine accel=" options are incompatible'),
    (("-accel", "qtest", "-cpu", "host"), "CPU model 'host' requires KVM"),
    (("-accel", "qtest", "-qtest", "unix:/nonexistent/socket"), "-qtest unix:/nonexistent/socket"),
)


@pytest.mark.parametrize(
    ("options", "sentence"), FAILING, ids=lambda each: " ".join(each) if type(each) is tuple else ""
)
def test_what_cannot_be_is_refused(options: tuple[str, ...], sentence: str) -> None:
    command = [*emulator("vmmd").command, "-nodefaults", "-display", "none", *options]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 1
    assert sentence in ended.stderr


def test_the_first_that_is_usable_is_taken() -> None:
    with Qtest("vmmd", "-nodefaults", accel=("foo", "tcg", "qtest", "kvm")) as vm:
        assert vm.qmp("query-accelerators")["enabled"] == "qtest"
        assert not uses_kvm(vm)
    assert "-accel foo: invalid accelerator foo\n" in vm.stderr
    assert "-accel tcg: not available in this version\n" in vm.stderr
    assert "falling back to qtest\n" in vm.stderr


def test_the_first_of_the_machine_option_is_taken() -> None:
    with Qtest("vmmd", "-nodefaults", "-machine", "pc,accel=tcg:qtest", accel=()) as vm:
        assert vm.qmp("query-accelerators") == {"enabled": "qtest", "present": ["kvm", "qtest"]}


def test_the_wire_protocol_works_with_kvm_too() -> None:
    """As QEMU's does with TCG: a program may look into a guest that runs. Without KVM the start falls through."""
    with Qtest("vmmd", "-nodefaults", "-S", accel=("kvm", "qtest")) as vm:
        assert vm.readl(0xFFFF_FFF0) == 0x00E0_5BEA
        assert vm.pci(0).config_read(0, 4) == 0x1237_8086
        vm.write(0x10_0000, b"by hand")
        assert vm.read(0x10_0000, 7) == b"by hand"


def test_queries_need_no_cpu_that_runs() -> None:
    with Qtest("vmmd", "-nodefaults", "-smp", "4,sockets=2,cores=2,maxcpus=4") as vm:
        assert vm.qmp("query-kvm") == {"enabled": False, "present": True}
        assert vm.qmp("query-status") == {"status": "running", "singlestep": False, "running": True}
        cpus = vm.qmp("query-cpus-fast")
        assert [cpu["props"]["socket-id"] for cpu in cpus] == [0, 0, 1, 1]
        assert len(vm.qmp("query-hotpluggable-cpus")) == 4
        assert vm.qmp("query-stats", target="vm") == []
        text = vm.hmp("info registers -a")
        assert text.count("CPU#") == 4
        assert "EIP=0000fff0" in text
        assert "CS =f000 ffff0000 0000ffff" in text
        assert vm.hmp("info status") == "VM status: running\r\n"
        vm.qmp("inject-nmi")


def test_cpu_models_have_all_that_they_ask_for() -> None:
    """No instruction is executed, so nothing can be lacking; only ``host`` is KVM's."""
    with Qtest("vmmd", "-nodefaults", "-cpu", "Skylake-Client") as vm:
        lacking = {each["name"]: each["unavailable-features"] for each in vm.qmp("query-cpu-definitions")}
        assert lacking.pop("host") == ["kvm"]
        assert not any(lacking.values())
        path = vm.qmp("query-cpus-fast")[0]["qom-path"]
        assert vm.qmp("qom-get", path=path, property="vendor") == "GenuineIntel"
        assert vm.qmp("qom-get", path=path, property="rtm") is True
        assert vm.qmp("qom-get", path=path, property="unavailable-features") == []


def test_leaves_that_only_one_maker_has_raise_their_own_limit() -> None:
    """As public CPUID tests ask: a feature in 0xC0000001 raises ``xlevel2``, unless it is fixed."""
    for cpu, level in (("486", 0), ("486,xstore=on", 0xC000_0001), ("486,xlevel2=0,xstore=on", 0)):
        with Qtest("vmmd", "-nodefaults", "-cpu", cpu) as vm:
            path = vm.qmp("query-cpus-fast")[0]["qom-path"]
            assert vm.qmp("qom-get", path=path, property="xlevel2") == level


def test_stop_cont_and_reset() -> None:
    with Qtest("vmmd", "-nodefaults") as vm:
        vm.outb(0x70, 0x0F)
        vm.outb(0x71, 0x5A)  # CMOS RAM outlives a reset
        vm.outl(0xCF8, 0x8000_0004)
        vm.qmp("stop")
        assert vm.qmp("query-status")["status"] == "paused"
        vm.wait_event("STOP")
        vm.writel(0x10_0000, 7)  # a stopped machine can be looked at and changed
        assert vm.readl(0x10_0000) == 7
        vm.qmp("cont")
        vm.wait_event("RESUME")
        vm.qmp("system_reset")
        assert vm.wait_event("RESET")["data"] == {"guest": False, "reason": "host-qmp-system-reset"}
        assert vm.qmp("query-status")["status"] == "running"
        assert vm.inl(0xCF8) == 0
        vm.outb(0x70, 0x0F)
        assert vm.inb(0x71) == 0x5A


def test_minus_s_waits() -> None:
    with Qtest("vmmd", "-nodefaults", "-S") as vm:
        assert vm.qmp("query-status") == {"status": "prelaunch", "singlestep": False, "running": False}
        assert vm.inb(0x92) & 0xFC == 0
        assert vm.clock_step() == 0  # QEMU: no timer runs before the machine does, so there is none to step to
        assert vm.clock_step(1000) == 1000
        vm.qmp("cont")
        assert vm.qmp("query-status")["running"]
        assert vm.clock_step() > 1000


def test_preconfig() -> None:
    with Qtest("vmmd", "-nodefaults", "--preconfig") as vm:
        with pytest.raises(QmpFailure):
            vm.qmp("query-cpus-fast")
        assert vm.qmp("query-status")["status"] == "prelaunch"
        assert vm.readl(0x10_0000) == 0  # no machine yet: nothing is there
        vm.writel(0x10_0000, 1)
        vm.qmp("x-exit-preconfig")
        vm.wait_event("RESUME")
        assert vm.qmp("query-status")["status"] == "running"
        with pytest.raises(QmpFailure):
            vm.qmp("x-exit-preconfig")
        vm.writel(0x10_0000, 0x1234_5678)
        assert vm.readl(0x10_0000) == 0x1234_5678
        assert len(vm.qmp("query-cpus-fast")) == 1


def test_quit_ends_with_status_0() -> None:
    vm = Qtest("vmmd", "-nodefaults").start()
    vm.qmp("quit")
    assert vm.process.wait(10) == 0
    vm.kill()
