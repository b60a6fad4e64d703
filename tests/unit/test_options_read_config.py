# SPDX-License-Identifier: Apache-2.0
"""-readconfig: a section is an option, with the errors of a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vmmd.errors import BackendError, UsageError
from vmmd.options.cmdline import parse

if TYPE_CHECKING:
    from pathlib import Path

GOOD = """
# a comment
[memory]
  size = "200"

[object "m0"]
  qom-type = "memory-backend-ram"
  size = "200M"
[chardev "c0"]
  backend = "file"
  path = "/tmp/a,b"
[device "s0"]
  driver = "isa-serial"
  chardev = "c0"
[smp-opts]
  cpus = "2"
[machine]
  memory-backend = "m0"
"""

WRONG = (
    ('[foo]\na = "b"\n', ":1: There is no option group 'foo'"),
    ('[devices "x"]\n', ":1: There is no option group 'devices'; did you mean 'device'?"),
    ('size = "1"\n', ':1: no group defined; a line such as [device "disk0"] has to come first'),
    ("[memory]\nsize = 200\n", ':2: parse error; [group], [group "id"] and key = "value" are understood'),
    ('[memory]\nsiez = "200"\n', "-m siez=200: Invalid parameter 'siez'; did you mean 'size'?"),
)


def test_sections_are_options(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(GOOD)
    config = parse(["-nodefaults", "-readconfig", str(path), "-S"])
    assert config.memory.size_bytes == 200 << 20
    assert config.smp.cpus == 2
    assert config.machine.memory_backend == "m0"
    assert [each.id for each in config.objects] == ["m0"]
    assert config.chardevs["c0"].values["path"] == "/tmp/a,b"
    assert [(each.driver, each.id) for each in config.devices] == [("isa-serial", "s0")]
    assert config.paused


@pytest.mark.parametrize(("text", "sentence"), WRONG, ids=[sentence for _, sentence in WRONG])
def test_what_is_wrong_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        parse(["-readconfig", str(path)])
    assert str(caught.value).removeprefix(str(path)) == sentence


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(BackendError) as caught:
        parse(["-readconfig", "/nonexistent/x"])
    assert str(caught.value).startswith("-readconfig /nonexistent/x: Could not open '/nonexistent/x': No such file")


def test_the_topology_may_stand_in_the_machine_option() -> None:
    smp = parse(["-nodefaults", "-machine", "pc,smp.cpus=8,smp.sockets=2", "-accel", "qtest"]).smp
    assert (smp.cpus, smp.sockets, smp.cores) == (8, 2, 4)
    with pytest.raises(UsageError, match="Invalid parameter 'cpu'"):
        parse(["-machine", "pc,smp.cpu=8"])
