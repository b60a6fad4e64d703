# SPDX-License-Identifier: Apache-2.0
"""SMBIOS tables. The expected bytes are what QEMU 7.2 gave SeaBIOS for the same options (read through fw_cfg)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vmmd.errors import BackendError, UsageError
from vmmd.firmware import smbios
from vmmd.firmware.smbios import SmbiosConfig, build, parse_fields, parse_uuid, seal

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20
GIB = 1 << 30
UUID = "6a0b8f1e-3c74-4d0a-9a2e-0c9f6d2f5b11"
BASIC = SmbiosConfig("pc-i440fx-7.2", [(0, 128 * MIB)], cpu_signature=0x60FB1, cpu_features=0x78B_FBFD)


def parse(tables: bytes) -> list[tuple[int, int, str, list[str]]]:
    """(type, handle, fixed part behind the header in hex, strings)."""
    found, offset = [], 0
    while offset < len(tables):
        kind, length = tables[offset], tables[offset + 1]
        end = tables.index(b"\0\0", offset + length)
        strings = [text.decode() for text in tables[offset + length : end].split(b"\0") if text]
        handle = int.from_bytes(tables[offset + 2 : offset + 4], "little")
        found.append((kind, handle, tables[offset + 4 : offset + length].hex(), strings))
        offset = end + 2
    return found


def structures(config: SmbiosConfig, kind: int) -> list[tuple[int, str, list[str]]]:
    return [each[1:] for each in parse(build(config)[1]) if each[0] == kind]


def with_type(kind: int, options: str, config: SmbiosConfig = BASIC) -> SmbiosConfig:
    items = [tuple(part.split("=", 1)) for part in options.split(",") if part]
    fields = {**config.fields, kind: parse_fields(kind, items, f"-smbios type={kind}")}  # type: ignore[arg-type]
    return config._replace(fields=fields)


def test_defaults_equal_qemu() -> None:
    anchor, tables = build(BASIC)
    assert anchor.hex() == "5f534d5f001f020851000000000000005f444d495f00410100000000080028"
    maker = ["QEMU", "pc-i440fx-7.2"]
    assert parse(tables) == [
        (1, 0x100, "0102030000000000000000000000000000000000060000",
         ["QEMU", "Standard PC (i440FX + PIIX, 1996)", "pc-i440fx-7.2"]),
        (3, 0x300, "010102000003030302000000000000000000", maker),
        (4, 0x400, "01030102b10f0600fdfb8b0703000000d007d0074101ffffffffffff00000001010102000100", ["CPU 0", *maker]),
        (16, 0x1000, "01030600000200feff01000000000000000000", []),
        (17, 0x1100, "0010feffffffffff80000900010007020000000200000000000000000000000000000000", ["DIMM 0", "QEMU"]),
        (19, 0x1300, "00000000ffff010000100100000000000000000000000000000000", []),
        (32, 0x2000, "00000000000000", []),
        (127, 0x7F00, "", []),
    ]  # fmt: skip


def test_openstack_system_information_equals_qemu() -> None:
    given = (
        "manufacturer=OpenStack Foundation,product=OpenStack Nova,version=13.1.4,"
        f"serial=11111111-2222-4333-8444-555555555555,uuid={UUID},family=Virtual Machine"
    )
    config = with_type(1, given)
    assert structures(config, 1) == [
        (0x100, "010203041e8f0b6a743c0a4d9a2e0c9f6d2f5b11060005",
         ["OpenStack Foundation", "OpenStack Nova", "13.1.4", "11111111-2222-4333-8444-555555555555",
          "Virtual Machine"]),
    ]  # fmt: skip
    assert build(config)[0].hex() == "5f534d5f001f02087c000000000000005f444d495f006c0100000000080028"


def test_uuid_of_the_machine_is_used_without_type_1() -> None:
    uuid = parse_uuid(UUID)
    assert uuid is not None
    assert structures(BASIC._replace(uuid=uuid), 1)[0][1][8:40] == "1e8f0b6a743c0a4d9a2e0c9f6d2f5b11"


@pytest.mark.parametrize(
    ("kind", "options", "body", "strings"),
    [
        (0, "vendor=V,version=1,date=01/02/2003,release=4.5,uefi=on", "010200e803000800000000000000001c0405ffff",
         ["V", "1", "01/02/2003"]),
        (0, "", "000000e80000080000000000000000140000ffff", []),
        (2, "manufacturer=MM,product=BP,serial=S,asset=A,version=VV,location=LL", "0102030405010600030a00",
         ["MM", "BP", "VV", "S", "A", "LL"]),
        (2, "", "0102030000010000030a00", ["QEMU", "Standard PC (i440FX + PIIX, 1996)", "pc-i440fx-7.2"]),
        (3, "manufacturer=CM,sku=SK", "010102000003030302000000000000000003", ["CM", "pc-i440fx-7.2", "SK"]),
        (4, "sock_pfx=SP,manufacturer=PM,max-speed=3000",
         "01030102b10f0600fdfb8b0703000000b80bd0074101ffffffffffff00000001010102000100",
         ["SP 0", "PM", "pc-i440fx-7.2"]),
        (4, "processor-id=7,current-speed=900",
         "01030102070000000000000003000000d00784034101ffffffffffff00000001010102000100",
         ["CPU 0", "QEMU", "pc-i440fx-7.2"]),
        (11, "value=a,value=bb", "02", ["a", "bb"]),
        (17, "loc_pfx=X,bank=BB,manufacturer=F,serial=9,speed=2400",
         "0010feffffffffff80000900010207020060090304000000000000006009000000000000", ["X 0", "BB", "F", "9"]),
    ],
)  # fmt: skip
def test_options_of_a_type_equal_qemu(kind: int, options: str, body: str, strings: list[str]) -> None:
    assert [each[1:] for each in structures(with_type(kind, options), kind)] == [(body, strings)]


def test_type_8_equals_qemu() -> None:
    items = [("internal_reference", "a"), ("external_reference", "b"), ("connector_type", "1"), ("port_type", "2")]
    config = BASIC._replace(ports=[parse_fields(8, items, "-smbios type=8")])
    assert structures(config, 8) == [(0, "0100020102", ["a", "b"])]


def test_topology_and_large_memory_equal_qemu() -> None:
    config = BASIC._replace(ram_ranges=[(0, 3 * GIB), (4 * GIB, 37 * GIB)], sockets=2, cores=2, threads=2)
    assert structures(config, 16)[0][1] == "01030600008002feff03000000000000000000"
    assert [(handle, body[16:20], strings[0]) for handle, body, strings in structures(config, 17)] == [
        (0x1100, "0040", "DIMM 0"), (0x1101, "0040", "DIMM 1"), (0x1102, "0020", "DIMM 2"),
    ]  # fmt: skip
    assert [(handle, body[:18]) for handle, body, _ in structures(config, 19)] == [
        (0x1300, "00000000ffff2f0000"), (0x1301, "00004000ffff8f0200"),
    ]  # fmt: skip
    sockets = structures(config, 4)
    assert [(handle, strings[0]) for handle, _, strings in sockets] == [(0x400, "CPU 0"), (0x401, "CPU 1")]
    assert sockets[0][1][-14:-8] == "020204"


def test_array_of_two_tebibytes_uses_extended_size() -> None:
    body = structures(BASIC._replace(ram_ranges=[(0, 3 * GIB), (4 * GIB, 2045 * GIB)]), 16)[0][1]
    assert (body[6:14], body[-16:]) == ("00000080", (2048 * GIB).to_bytes(8, "little").hex())


def test_seal_makes_both_checksums_zero() -> None:
    anchor = seal(build(BASIC)[0], 0xF1234)
    assert sum(anchor) & 0xFF == 0
    assert sum(anchor[16:]) & 0xFF == 0
    assert anchor[24:28] == bytes.fromhex("34120f00")


@pytest.mark.parametrize(
    ("kind", "key", "text", "sentence"),
    [
        (5, "a", "b", "Don't know how to build fields for SMBIOS type 5"),
        (1, "foo", "x", "Invalid parameter 'foo'"),
        (0, "release", "x", "Invalid release"),
        (0, "release", "256.1", "Invalid release"),
        (0, "uefi", "maybe", "expects 'on' or 'off'"),
        (1, "uuid", "zz", "Invalid UUID"),
        (1, "uuid", "6a0b8f1e-3c74-4d0a-9a2e-0c9f6d2f5bzz", "Invalid UUID"),
        (4, "max-speed", "70000", "out of range"),
        (17, "speed", "x", "expects a number"),
        (1, "serial", "a\0b", "takes a text"),
        (1, "serial", "x" * 2000, "takes a text"),
    ],
)
def test_wrong_field_is_named(kind: int, key: str, text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        parse_fields(kind, [(key, text)], f"-smbios type={kind}")


def test_oem_strings_from_file(tmp_path: Path) -> None:
    path = tmp_path / "oem"
    path.write_bytes(b"from file")
    assert structures(with_type(11, f"value=x,path={path}"), 11)[0][2] == ["x", "from file"]
    path.write_bytes(b"a\0b")
    with pytest.raises(UsageError, match="NUL"):
        with_type(11, f"path={path}")
    with pytest.raises(BackendError, match="No such file"):
        with_type(11, f"path={tmp_path}/none")


def test_oem_strings_beyond_255_are_refused() -> None:
    with pytest.raises(UsageError, match="255"):
        build(with_type(11, ",".join(["value=v"] * 256)))


def test_tables_beyond_64_kib_are_refused() -> None:
    with pytest.raises(UsageError, match="65535"):
        build(BASIC._replace(sockets=1000))


def test_blob_replaces_the_structure_of_its_type() -> None:
    blob = bytes((1, 4, 0, 1)) + b"\0\0"
    config = BASIC._replace(blobs=[smbios.check_blob(blob, "-smbios file=f")])
    assert structures(config, 1) == [(0x100, "", [])]


@pytest.mark.parametrize("data", [b"", b"\1\4\0\1\0", b"\1\xff\0\1\0\0", b"\1\4\0\1\0\0\1\4\0\1\0\0"])
def test_damaged_blob_is_refused(data: bytes) -> None:
    with pytest.raises(UsageError, match="-smbios file=f"):
        smbios.check_blob(data, "-smbios file=f")


def test_options_of_one_type_add_up() -> None:
    fields, ports = smbios.collect(
        [
            (1, {"manufacturer": "a", "serial": "s"}),
            (11, {"value": ["x"]}),
            (8, {"port_type": 1}),
            (1, {"manufacturer": "b"}),
            (11, {"value": ["y", "z"]}),
            (8, {"port_type": 2}),
        ]
    )
    assert fields == {1: {"manufacturer": "b", "serial": "s"}, 11: {"value": ["x", "y", "z"]}}
    assert ports == [{"port_type": 1}, {"port_type": 2}]


def test_oem_strings_are_counted_when_the_last_is_empty() -> None:
    config = smbios.SmbiosConfig("pc-i440fx-7.2", [(0, 1 << 30)], fields={11: {"value": ["one", "two", ""]}})
    _, tables = smbios.build(config)
    at = tables.index(b"\x0b\x05\x00\x0e")
    assert tables[at : at + 14] == b"\x0b\x05\x00\x0e\x02one\0two\0\0"
