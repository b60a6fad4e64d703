# SPDX-License-Identifier: Apache-2.0
"""What test programs take for granted of QMP and of the lists they are made from (contract §1, §3 and §4)."""

from __future__ import annotations

import json
import socket
import time
from typing import TYPE_CHECKING

import pytest

from tests.framework.qtest import QmpFailure, Qtest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def none() -> Iterator[Qtest]:
    with Qtest("vmmd", "-machine", "none") as started:
        yield started


@pytest.fixture(scope="module")
def pc() -> Iterator[Qtest]:
    with Qtest("vmmd") as started:
        yield started


def keys(entries: list[dict[str, object]], mandatory: str, optional: str = "") -> None:
    """Every entry has all of one list and nothing but both."""
    assert entries
    for entry in entries:
        assert set(mandatory.split()) <= set(entry) <= set(mandatory.split()) | set(optional.split()), entry


# --- strict key sets ---


def test_the_greeting_and_version(none: Qtest) -> None:
    greeting = none.greeting["QMP"]
    assert set(none.greeting) == {"QMP"}
    assert set(greeting) == {"version", "capabilities"}
    assert greeting["capabilities"][0] == "oob"
    for version in (greeting["version"], none.qmp("query-version")):
        assert set(version) == {"qemu", "package"}
        assert set(version["qemu"]) == {"major", "minor", "micro"}


def test_query_machines(none: Qtest) -> None:
    machines = none.qmp("query-machines")
    keys(
        machines,
        "name cpu-max hotpluggable-cpus numa-mem-supported deprecated",
        "alias is-default default-cpu-type default-ram-id",
    )
    (pc,) = [each for each in machines if each.get("alias") == "pc"]
    assert pc["name"] == "pc-i440fx-7.2"
    assert [each["name"] for each in machines if each.get("is-default")] == ["pc-i440fx-7.2"]
    assert "none" in [each["name"] for each in machines]


@pytest.mark.parametrize("abstract", [True, False])
def test_qom_list_types(none: Qtest, abstract: bool) -> None:
    types = none.qmp("qom-list-types", implements="device", abstract=abstract)
    keys(types, "name", "abstract parent")
    flagged = {each["name"] for each in types if each.get("abstract")}
    assert bool(flagged) == abstract
    names = {each["name"] for each in types} - flagged
    assert {"virtio-blk-pci", "isa-serial", "piix3-ide", "ioapic"} <= names


def test_no_type_is_listed_that_cannot_be_made(pc: Qtest) -> None:
    """device-introspect-test asks every concrete type for its properties and its help."""
    before = pc.hmp("info qom-tree")
    for each in pc.qmp("qom-list-types", implements="device", abstract=False):
        for listed in pc.qmp("device-list-properties", typename=each["name"]):
            keys([listed], "name type", "description default-value")
    assert pc.hmp("info qom-tree") == before


def test_qom_list(pc: Qtest) -> None:
    for path in ("/", "/machine", "/machine/unattached", "/machine/unattached/device[0]"):
        keys(pc.qmp("qom-list", path=path), "name type", "description default-value")


def test_query_memdev(pc: Qtest) -> None:
    keys(pc.qmp("query-memdev"), "size merge dump prealloc share host-nodes policy", "id reserve")


def test_every_type_of_the_schema_is_there(none: Qtest) -> None:
    schema = none.qmp("query-qmp-schema")
    names = {each["name"] for each in schema}
    for each in schema:
        wanted = [each[key] for key in ("arg-type", "ret-type", "element-type") if key in each]
        wanted += [part["type"] for key in ("members", "variants") for part in each.get(key, []) if "type" in part]
        assert set(wanted) <= names, each["name"]


def test_commands_without_arguments_answer(none: Qtest) -> None:
    """qmp-cmd-test: every query command that needs no arguments gives a return or an error, never nothing."""
    schema = {each["name"]: each for each in none.qmp("query-qmp-schema")}
    for name, each in schema.items():
        if each["meta-type"] == "command" and name.startswith("query-"):
            members = schema[each["arg-type"]]["members"]
            if all("default" in member for member in members):
                none.qmp_send(json.dumps({"execute": name}).encode() + b"\n")
                reply = none.qmp_reply()
                assert ("return" in reply) != ("error" in reply), name


# --- errors, malformed input, out of band ---


@pytest.mark.parametrize("negotiated", [False, True])
def test_malformed_input(negotiated: bool) -> None:
    with Qtest("vmmd", "-machine", "none", negotiate=negotiated) as vm:
        if not negotiated:
            vm.qmp_receive()
        good = b'{"execute": "query-version"}\n' if negotiated else b'{"execute": "nosuch"}\n'
        for bad in (
            b"{]\n", b"{\xff", b"{\x01", b"{'execute': '\xff'}\n", b"{'execute': 'a\nb'}\n", b"{'execute': %p}\n",
            b"null\n", b"{}\n", b"{'execute': 1}\n", b"{'execute': 'query-version', 'arguments': []}\n",
            b"{'execute': 'query-version', 'extra': 1}\n",
        ):  # fmt: skip
            vm.qmp_send(bad)
            reply = vm.qmp_reply()
            assert reply["error"]["class"] == "GenericError", bad
            assert reply["error"]["desc"], bad
            assert "return" not in reply, bad
            drain(vm, good, negotiated=negotiated)


def drain(vm: Qtest, good: bytes, *, negotiated: bool) -> None:
    """A good command works after a bad one, perhaps behind further complaints of the same."""
    vm.qmp_send(good)
    reply = vm.qmp_reply()
    while reply.get("error", {}).get("class") == "GenericError":
        reply = vm.qmp_reply()
    assert "return" in reply if negotiated else reply["error"]["class"] == "CommandNotFound"


def test_error_classes_and_ids(pc: Qtest) -> None:
    for command, error_class in (
        ("nosuch", "CommandNotFound"),
        ("qmp_capabilities", "CommandNotFound"),
        ("query-balloon", "DeviceNotActive"),
        ("query-rocker", "CommandNotFound"),
    ):
        pc.qmp_send(json.dumps({"execute": command, "id": {"a": [1]}}).encode() + b"\n")
        reply = pc.qmp_reply()
        assert reply["error"]["class"] == error_class
        assert reply["id"] == {"a": [1]}


def test_before_the_handshake_nothing_but_the_handshake_works() -> None:
    with Qtest("vmmd", "-machine", "none", negotiate=False) as vm:
        vm.qmp_receive()
        vm.qmp_send(b'{"execute": "query-version"}\n')
        assert vm.qmp_reply()["error"]["class"] == "CommandNotFound"
        with pytest.raises(QmpFailure):
            vm.qmp("qmp_capabilities", enable=["nosuch"])
        vm.qmp("qmp_capabilities", enable=["oob"])
        vm.qmp_send(b'{"exec-oob": "query-version", "id": 1}\n')
        assert vm.qmp_reply()["error"]["class"] == "GenericError"


# --- HMP, events ---


def test_hmp_returns_a_string_always(pc: Qtest) -> None:
    assert type(pc.hmp("nosuch")) is str
    for line in pc.hmp("help info").splitlines():
        assert line.startswith("info "), line
        name = line.split(" ")[1]
        assert type(pc.hmp(f"info {name}")) is str
    assert pc.qmp("query-status")["running"]


def test_reset_answers_before_its_event(pc: Qtest) -> None:
    for _ in range(3):
        pc.qmp("system_reset")
        pc.wait_event("RESET")


# --- process rules ---


def test_files_may_go_after_the_handshake(tmp_path: Path) -> None:
    bios = tmp_path / "bios.bin"
    bios.write_bytes(bytes(range(256)) * 256)
    with Qtest("vmmd", "-nodefaults", "-bios", str(bios)) as vm:
        bios.unlink()
        assert vm.read(0xFFFF_0000, 256) == bytes(range(256))
        assert vm.read(0xF_0000, 256) == bytes(range(256))
        vm.qmp("system_reset")
        vm.wait_event("RESET")
        assert vm.read(0xF_0000, 16) == bytes(range(16))


def test_inherited_descriptors_stay_open() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        options = ("-chardev", f"socket,id=c0,fd={theirs.fileno()}", "-device", "isa-serial,chardev=c0")
        with Qtest("vmmd", "-nodefaults", *options, pass_fds=(theirs.fileno(),)) as vm:
            vm.outb(0x3F8, ord("x"))
            ours.settimeout(10)
            assert ours.recv(10) == b"x"
            ours.send(b"y")
            deadline = time.monotonic() + 10
            while not vm.inb(0x3FD) & 1:
                assert time.monotonic() < deadline
                vm.clock_step(100)
            assert vm.inb(0x3F8) == ord("y")


def test_a_dropped_monitor_ends_nothing() -> None:
    with Qtest("vmmd", "-nodefaults") as vm:
        vm.drop_qmp()
        assert vm.pci(0).exists


def test_the_order_of_options_is_free(tmp_path: Path) -> None:
    """``-device`` stands before its drive, and addresses are hexadecimal."""
    image = tmp_path / "disk"
    image.write_bytes(bytes(1 << 20))
    for address, slot in (("4.0", 4), ("04.0", 4), ("1d.0", 0x1D), ("3", 3), ("0x06", 6), ("0x06.0", 6)):
        device = f"virtio-blk-pci,id=drv0,drive=drive0,addr={address}"
        drive = f"if=none,id=drive0,file={image},format=raw,auto-read-only=off"
        with Qtest("vmmd", "-M", "pc", "-device", device, "-drive", drive) as vm:
            assert vm.pci(slot).config_read(0, 4) == 0x1001_1AF4
            free = [each for each in (4, 6) if each != slot]
            assert not any(vm.pci(each).exists for each in free)


def test_a_drive_may_be_nothing_at_all() -> None:
    """``file=null-co://`` with keys of that driver, as public virtio-blk tests have it."""
    drive = "if=none,id=drive1,file=null-co://,file.read-zeroes=on,file.size=1M,format=raw"
    with Qtest("vmmd", "-nodefaults", "-drive", drive, "-device", "virtio-blk-pci,drive=drive1") as vm:
        (block,) = vm.qmp("query-block")
        image = block["inserted"]["image"]
        assert image["virtual-size"] == 1 << 20
        assert "read-zeroes" in image["filename"]


def test_machine_none_may_have_memory(tmp_path: Path) -> None:
    """``-m``, or a file that says so, makes a backend called ram; a test program reads it by query-memdev."""
    config = tmp_path / "config"
    config.write_text('[memory]\nsize = "200"\n')
    for options in (("-m", "200"), ("-readconfig", str(config))):
        with Qtest("vmmd", "-nodefaults", "-machine", "none", *options) as vm:
            (backend,) = vm.qmp("query-memdev")
            assert (backend["id"], backend["size"]) == ("ram", 200 << 20)
            assert vm.qmp("query-memory-size-summary")["base-memory"] == 200 << 20
            vm.writel(0xA_0000, 5)  # flat: there is no PC around it
            assert vm.readl(0xA_0000) == 5
            assert vm.readl(200 << 20) == 0
