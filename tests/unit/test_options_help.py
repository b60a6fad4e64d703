# SPDX-License-Identifier: Apache-2.0
"""Texts for people: made from the declarations, complete, and wide enough for a terminal."""

from __future__ import annotations

import pytest

import vmmd
from vmmd.core import registry
from vmmd.core.device import Device
from vmmd.core.props import BOOL, U32, PropSet, prop
from vmmd.errors import UsageError
from vmmd.options import document, help  # noqa: A004  # the module's name is its subject
from vmmd.options.cmdline import HelpRequested, parse
from vmmd.options.table import OPTIONS


def _text(*words: str) -> str:
    with pytest.raises(HelpRequested) as caught:
        parse(words)
    return help.render(caught.value, cpu_text=lambda: "\n".join(["qemu64", "IvyBridge"]))


class FakeDevice(Device):
    type_name = "fake-uart"
    description = "a device for tests"
    category = "input"
    bus_type = "ISA"
    user_creatable = True

    class Props(PropSet):
        iobase = prop(U32, 0x3F8, "first I/O port")
        wakeup = prop(BOOL, False, "wake the guest")
        chardev = prop(U32, None, "backend", required=True)


class FakeBoard(FakeDevice):
    type_name = "fake-board"
    user_creatable = False


@pytest.fixture
def fake_devices(monkeypatch):
    classes = {"fake-uart": FakeDevice, "fake-board": FakeBoard}
    monkeypatch.setattr(registry, "all_device_classes", lambda: classes)
    monkeypatch.setattr(registry, "device_class", classes.get)


@pytest.mark.parametrize("word", ["-help", "--help", "-h"])
def test_help_lists_every_option_of_this_version(word):
    lines = _text(word).splitlines()
    for spec in OPTIONS:
        if not spec.later:
            (line,) = [line for line in lines if line.split(" ")[0] == f"-{spec.name}"]
            assert line.endswith(spec.help)
    later = lines[lines.index("Options of QEMU that this version does not have:") + 1 :]
    assert set(" ".join(later).split()) == {f"-{spec.name}" for spec in OPTIONS if spec.later}


def test_version_is_understood_by_tools_that_look_for_qemu():
    first, second = _text("-version").splitlines()
    assert first == f"QEMU emulator version 7.2.0 (vmmd {vmmd.__version__})"
    assert second.startswith(f"vmmd {vmmd.__version__}")


def test_machine_help():
    lines = _text("-machine", "help").splitlines()
    assert lines[0] == "Supported machines are:"
    assert lines[1].split()[0] == "pc"
    names = [line.split()[0] for line in lines[1:]]
    assert names[1] == "pc-i440fx-7.2"
    assert lines[2].endswith("(default)")
    assert names[-1] == "none"
    assert "pc-i440fx-2.5" in names
    assert len(names) == 24


def test_machine_type_help_shows_what_can_be_set():
    text = _text("-machine", "pc,help")
    assert text.startswith("pc-i440fx-7.2-machine options:\n")
    assert "  pit=<OnOffAuto>" in text
    assert "pflash0" not in text  # only a later version has it


def test_cpu_help_comes_from_the_caller():
    assert _text("-cpu", "help") == "qemu64\nIvyBridge"


def test_device_help_shows_user_creatable_types_by_category(fake_devices):
    expected = 'Input devices:\nname "fake-uart", bus ISA, desc "a device for tests"\n'
    assert _text("-device", "help") == expected
    assert _text("-device", "?") == expected


def test_device_properties_help(fake_devices):
    assert _text("-device", "fake-uart,help") == (
        "fake-uart options:\n"
        "  chardev=<uint32>       - backend (required)\n"
        "  iobase=<uint32>        - first I/O port (default: 1016)\n"
        "  wakeup=<bool>          - wake the guest (default: off)\n"
    )


def test_device_help_of_unknown_and_later_types():
    for driver, sentence in (
        ("isa-seriall", "'isa-seriall' is not a valid device model name; did you mean 'isa-serial'?"),
        ("cirrus-vga", "not available in this version"),
    ):
        with pytest.raises(UsageError) as caught:
            _text("-device", f"{driver},help")
        assert str(caught.value) == f"-device {driver}: {sentence}"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("-chardev", "help"), "  socket"),
        (("-object", "help"), "  memory-backend-memfd"),
        (("-netdev", "help"), "  tap"),
        (("-accel", "help"), "kvm"),
        (("-display", "help"), "none"),
        (("-vga", "help"), "none                 no graphic card"),
        (
            ("-object", "secret,help"),
            "  data=<str>             - the secret itself, seen by everyone who sees the process list",
        ),
        (("-chardev", "socket,help"), "  server=<bool>          - listen instead of connecting (default: off)"),
    ],
)
def test_lists(words, expected):
    assert expected in _text(*words).splitlines()


def test_errors_before_help_win():
    with pytest.raises(UsageError):
        parse(["-m", "x", "-help"])


def test_options_table_has_every_option():
    table = document.options_table()
    for spec in OPTIONS:
        assert f"`-{spec.name}" in table
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert all(row.replace("\\|", "").count("|") == 3 for row in rows)


def test_backends_table_names_what_is_and_what_will_be():
    table = document.backends_table()
    assert "| `-netdev` | `bridge`" in table
    assert "`ringbuf`" in table.splitlines()[2]
