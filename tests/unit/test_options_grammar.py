# SPDX-License-Identifier: Apache-2.0
"""Keys, values, flags, JSON, merging: the grammar of options."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmmd.errors import BackendError, UsageError
from vmmd.options import lexer
from vmmd.options.cmdline import parse
from vmmd.options.fields import shown
from vmmd.options.keyval import flatten, split_prefix
from vmmd.options.table import BY_NAME, OPTIONS
from vmmd.units import GiB, MiB

KEYS = st.from_regex(r"[a-z][a-z0-9._-]{0,12}", fullmatch=True)
VALUES = st.text(max_size=20)


@given(st.lists(st.tuples(KEYS, VALUES), min_size=1, max_size=6))
def test_split_undoes_join(items):
    assert lexer.split(lexer.join(items)) == items


@given(VALUES, st.lists(st.tuples(KEYS, VALUES), max_size=3))
def test_implied_first_key_takes_any_value_without_equals_sign(value, items):
    text = value.replace(",", ",,")
    if "=" in value or not value:
        return
    line = ",".join([text, *([lexer.join(items)] if items else [])])
    assert lexer.split(line, "first") == [("first", value), *items]


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("", []),
        ("a=1", [("a", "1")]),
        ("a=1,", [("a", "1")]),
        ("a=", [("a", "")]),
        ("a=b=c", [("a", "b=c")]),
        ("a=x,,y,b=,,", [("a", "x,y"), ("b", ",")]),
        ("a=1,,,b=2", [("a", "1,"), ("b", "2")]),
        ("server,nowait", [("server", "on"), ("wait", "off")]),
        ("path=/a,server,nodelay", [("path", "/a"), ("server", "on"), ("delay", "off")]),
        ("a=1,a=2", [("a", "1"), ("a", "2")]),
    ],
)
def test_split(text, items):
    assert lexer.split(text) == items


def test_strict_dialect_wants_equals_signs():
    with pytest.raises(UsageError, match=r"^-blockdev x: Expected '=' after parameter 'read-only'$"):
        lexer.split("driver=raw,read-only", "driver", strict=True, where="-blockdev x")


JSON_LEAVES = st.none() | st.booleans() | st.integers() | VALUES | st.lists(st.integers(), max_size=3)


@given(
    st.dictionaries(KEYS, JSON_LEAVES | st.dictionaries(KEYS.filter(lambda k: "." not in k), JSON_LEAVES, max_size=3))
)
def test_flatten_keeps_every_leaf(value):
    leaves = {}
    for key, member in value.items():
        if isinstance(member, dict) and member:
            leaves.update({f"{key}.{inner}": leaf for inner, leaf in member.items()})
        else:
            leaves[key] = member
    assert len(flatten(value, "-x")) >= len(leaves)
    assert set(dict(flatten(value, "-x"))) == set(leaves)


def test_flatten_bounds_nesting():
    deep: dict = {}
    for _ in range(100):
        deep = {"a": deep or 1}
    with pytest.raises(UsageError, match="nested too deeply"):
        flatten(deep, "-device")


def test_json_with_deep_arrays_is_refused_in_one_line():
    with pytest.raises(UsageError) as caught:
        parse(["-device", '{"driver":' + "[" * 100_000])
    assert "\n" not in str(caught.value)


def test_split_prefix():
    assert split_prefix([("file.driver", "x"), ("a", 1)], "file.") == ([("driver", "x")], [("a", 1)])


def test_json_and_text_form_of_blockdev_are_equal():
    text = parse(["-blockdev", "driver=raw,node-name=n,file.driver=file,file.filename=/i,cache.direct=on,read-only=on"])
    document = {
        "driver": "raw",
        "node-name": "n",
        "file": {"driver": "file", "filename": "/i"},
        "cache": {"direct": True},
        "read-only": True,
    }
    assert parse(["-blockdev", json.dumps(document)]).blockdevs == text.blockdevs
    (node,) = text.blockdevs
    (child,) = node.children()
    assert child.filename == "/i"
    assert node.cache_direct is True


def test_json_booleans_and_numbers_are_typed_in_blockdev_but_not_in_device():
    with pytest.raises(UsageError, match="Invalid parameter type for 'size', expected: integer"):
        parse(["-blockdev", '{"driver":"null-co","node-name":"a","size":"1M"}'])
    (device,) = parse(["-nodefaults", "-device", '{"driver":"isa-serial","index":"1"}']).devices
    assert device.items == [("index", "1")]


@pytest.mark.parametrize("dashes", ["-", "--"])
def test_one_dash_or_two(dashes):
    assert parse([f"{dashes}m", "64"]).memory.size_bytes == 64 * MiB


@pytest.mark.parametrize(
    ("text", "size"),
    [("64", 64 * MiB), ("1G", GiB), ("1048576k", GiB), ("size=0.5G", GiB // 2), ("0x40", 64 * MiB), ("0", 128 * MiB)],
)
def test_memory_size(text, size):
    assert parse(["-m", text]).memory.size_bytes == size


def test_memory_is_rounded_up_to_8_kib():
    assert parse(["-m", "8193B"]).memory.size_bytes == 16384


def test_memory_size_follows_the_backend_when_m_is_absent():
    config = parse(["-machine", "pc,memory-backend=r", "-object", "memory-backend-memfd,id=r,size=96M,share=on"])
    assert config.memory.size_bytes == 96 * MiB


def test_repeated_machine_options_merge_and_the_last_wins():
    config = parse(["-machine", "pc-i440fx-2.5,usb=on", "-M", "vmport=off", "-machine", "usb=off,kernel_irqchip=on"])
    assert config.machine.type == "pc-i440fx-2.5"
    assert config.machine.usb is False
    assert config.machine.vmport == "off"
    assert config.machine.kernel_irqchip == "on"


def test_repeated_m_smp_and_smbios_merge():
    config = parse(
        [
            *["-m", "256", "-m", "slots=2,maxmem=1G", "-smp", "2", "-smp", "maxcpus=4"],
            *["-smbios", "type=1,serial=a", "-smbios", "type=1,sku=b"],
        ]
    )
    assert (config.memory.size_bytes, config.memory.slots) == (256 * MiB, 2)
    assert (config.smp.cpus, config.smp.maxcpus) == (2, 4)
    assert [entry.values for entry in config.smbios] == [{"serial": "a", "sku": "b"}]


def test_smbios_oem_strings_accumulate():
    (strings,) = parse(["-smbios", "type=11,value=a,value=b", "-smbios", "type=11,value=c"]).smbios
    assert strings.value == ("a", "b", "c")


@pytest.mark.parametrize(
    ("machine", "text", "expected"),
    [
        ("pc", "", (1, 1, 1, 1, 1, 1)),
        ("pc", "4", (4, 4, 1, 1, 4, 1)),
        ("pc-i440fx-6.1", "4", (4, 4, 4, 1, 1, 1)),
        ("pc", "sockets=2,cores=3,threads=2", (12, 12, 2, 1, 3, 2)),
        ("pc", "2,maxcpus=8,sockets=2", (2, 8, 2, 1, 4, 1)),
        ("pc", "8,cores=4", (8, 8, 2, 1, 4, 1)),
        ("pc", "8,sockets=2,cores=2", (8, 8, 2, 1, 2, 2)),
        ("pc", "8,dies=2", (8, 8, 1, 2, 4, 1)),
        ("pc", "maxcpus=6", (6, 6, 1, 1, 6, 1)),
    ],
)
def test_smp_topology(machine, text, expected):
    smp = parse(["-machine", machine, *(["-smp", text] if text else [])]).smp
    assert (smp.cpus, smp.maxcpus, smp.sockets, smp.dies, smp.cores, smp.threads) == expected


def test_short_serial_forms():
    serials = ["none", "file:/tmp/a,b", "tcp:[::1]:4444,server,nowait"]
    config = parse(["-nodefaults", *(word for text in serials for word in ("-serial", text))])
    assert config.serials == [(1, "serial1"), (2, "serial2")]  # none takes a number
    assert config.chardevs["serial1"].path == "/tmp/a,b"
    socket = config.chardevs["serial2"]
    assert (socket.host, socket.port, socket.server, socket.wait) == ("::1", "4444", True, False)


def test_debugcon_makes_its_device():
    config = parse(["-nodefaults", "-debugcon", "null"])
    (device,) = config.devices
    assert (device.driver, device.items) == ("isa-debugcon", [("chardev", "debugcon")])


def test_qmp_short_forms_number_their_chardevs():
    config = parse(["-nodefaults", "-qmp", "unix:/a,server=on,wait=off", "-qmp-pretty", "unix:/b,server,nowait"])
    assert [(mon.chardev, mon.mode, mon.pretty) for mon in config.monitors] == [
        ("compat_monitor0", "control", False),
        ("compat_monitor1", "control", True),
    ]


def test_drive_if_virtio_makes_a_device_after_the_others():
    config = parse(
        [
            *["-nodefaults", "-drive", "if=virtio,file=/a,format=raw", "-drive", "if=virtio,file=/b,id=x"],
            *["-device", "isa-debugcon"],
        ]
    )
    assert [(device.driver, device.items) for device in config.devices] == [
        ("isa-debugcon", []),
        ("virtio-blk-pci", [("drive", "virtio0")]),
        ("virtio-blk-pci", [("drive", "x")]),
    ]
    # errors name what was typed
    assert [device.option for device in config.devices] == ["-device isa-debugcon", "-drive id=virtio0", "-drive id=x"]


def test_drive_with_protocol_keys():
    (drive,) = parse(["-nodefaults", "-drive", "if=none,id=a,file=/i,file.locking=off,format=raw"]).drives
    assert drive.protocol.driver == "file"
    assert (drive.protocol.filename, drive.protocol.locking) == ("/i", "off")


def test_socket_flags():
    config = parse(["-chardev", "socket,id=a,path=/x,server,nowait,nodelay", "-chardev", "socket,id=b,path=/y,server"])
    a, b = (config.chardevs[name] for name in "ab")
    assert (a.server, a.wait, a.nodelay, a.waits) == (True, False, True, False)
    assert b.waits


def test_defaults_are_announced_in_one_line():
    config = parse([])
    assert config.notices == [
        "warning: default devices not available in this version: a display adapter, a network card (e1000), "
        "a parallel port (-nodefaults asks for none)"
    ]
    assert config.serials == [(0, "serial0")]
    assert config.chardevs["serial0"].backend == "null"
    assert cdroms(config) == [("ide1-cd0", 1, 0, None)]


def cdroms(config):
    """Id, bus, unit and file of every CD-ROM drive."""
    return [(each.id, each.bus, each.unit, each.file) for each in config.drives if each.media == "cdrom"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("-cdrom a.iso", [("ide1-cd0", 1, 0, "a.iso")]),
        ("-cdrom a.iso -nodefaults", [("ide1-cd0", 1, 0, "a.iso")]),
        ("-nodefaults", []),
        ("-hdc a.img", []),  # has its place
        ("-device ide-hd,drive=d", []),
        ("-device ide-cd", []),
        ("-device virtio-blk-pci,drive=d", [("ide1-cd0", 1, 0, None)]),
        ("-drive media=cdrom,file=a.iso", [("ide0-cd0", 0, 0, "a.iso"), ("ide1-cd0", 1, 0, None)]),
        ("-machine none", []),
    ],
)
def test_who_has_a_cdrom_drive(line, expected):
    config = parse(line.split())
    assert cdroms(config) == expected
    assert all(drive.read_only for drive in config.drives if drive.media == "cdrom")


def test_default_serial_leaves_a_chardev_named_serial0_alone():
    config = parse(["-chardev", "ringbuf,id=serial0"])
    assert config.chardevs["serial0"].backend == "ringbuf"
    assert config.serials == [(0, "compat_serial0")]


def test_nographic_puts_com1_on_stdio():
    config = parse(["-nographic"])
    assert config.chardevs["serial0"].backend == "stdio"
    assert config.display == "none"
    assert "a monitor for people beside COM1 on stdio (mon:stdio)" in config.notices[0]
    assert "a monitor" not in parse(["-nographic", "-monitor", "pty"]).notices[0]
    assert parse(["-nographic", "-nodefaults"]).serials == []


def test_actions():
    config = parse(["-no-reboot", "-action", "shutdown=pause,panic=none"])
    assert (config.no_reboot, config.no_shutdown, config.action.panic) == (True, True, "none")


def test_parse_opens_and_creates_nothing(tmp_path):
    path = tmp_path / "x"
    words = f"-chardev file,id=a,path={path} -object secret,id=s,file={path} -pidfile {path}"
    parse([*words.split(), "-drive", f"if=none,file={path}"])
    assert list(tmp_path.iterdir()) == []


@given(st.text(max_size=200))
def test_shown_is_one_printable_line(text):
    assert shown(text).isprintable()
    assert len(shown(text)) <= 80


@given(st.sampled_from(sorted(BY_NAME)), st.text(max_size=40))
def test_any_argument_gives_a_config_or_one_line(name, text):
    """No option crashes on any text, and every error is one line that starts with the option."""
    from vmmd.options.draft import HelpRequested

    try:
        parse([f"-{name}", text] if BY_NAME[name].metavar is not None else [f"-{name}"])
    except HelpRequested:
        return
    except (UsageError, BackendError) as error:  # -readconfig opens its file
        sentence = str(error)
    else:
        return
    assert sentence.isprintable()


@given(
    st.sampled_from(["device", "netdev", "object", "blockdev", "audiodev"]),
    st.dictionaries(KEYS, JSON_LEAVES, max_size=5),
)
def test_any_json_gives_a_config_or_one_line(name, value):
    key = {"device": "driver", "netdev": "type", "object": "qom-type", "blockdev": "driver", "audiodev": "driver"}[name]
    word = {"device": "isa-serial", "netdev": "tap", "object": "secret", "blockdev": "raw", "audiodev": "none"}[name]
    try:
        parse([f"-{name}", json.dumps({key: word, **value})])
    except UsageError as error:
        sentence = str(error)
    else:
        return
    assert sentence.isprintable()


def test_every_option_is_declared_once():
    assert len(BY_NAME) == len(OPTIONS)


def test_import_is_light():
    heavy = "dataclasses pydantic asyncio uvloop inspect json orjson argparse uuid difflib vmmd.kvm vmmd.devices"
    code = (
        "import sys; import vmmd.options.cmdline, vmmd.options.availability as a\n"
        "a.check(vmmd.options.cmdline.parse('-nodefaults -S -m 64 -serial null -qmp unix:/x,server,nowait'.split()))\n"
        f"print([name for name in {heavy.split()!r} if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
