# SPDX-License-Identifier: Apache-2.0
"""Every command's example (docs/qmp) runs, on one small machine, and answers what the command declares.

The machine has: COM1 ``com1`` on chardev ``serial0``, a disk ``disk0`` on node ``node0``; without users chardev
``spare0``, node ``free0`` and memory ``mem0``.
"""

from __future__ import annotations

from contextlib import closing

import pytest
from pydantic import TypeAdapter

from tests.framework.qmp import QmpError
from tests.framework.vm import Vm, emulator
from vmmd.qmp.introspect import resolved_hints
from vmmd.qmp.registry import CommandSpec, load
from vmmd.qmp.session import NEGOTIATE

pytestmark = pytest.mark.kvm

MACHINE_LINE = (
    "-S -machine pc,accel=kvm -m 64 -smp 1,maxcpus=2 -nodefaults"
    " -chardev ringbuf,id=serial0 -device isa-serial,chardev=serial0,id=com1 -chardev ringbuf,id=spare0"
    " -blockdev null-co,node-name=node0 -device virtio-blk-pci,drive=node0,id=disk0 -blockdev null-co,node-name=free0"
    " -object memory-backend-ram,id=mem0,size=1M"
)

COMMANDS = load()


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_example_runs_and_returns_what_is_declared(name: str) -> None:
    spec = COMMANDS[name]
    options = ["-preconfig"] if name == "x-exit-preconfig" else []
    with (
        Vm(emulator("vmmd"), [*MACHINE_LINE.split(), *options], serial=False) as vm,
        closing(vm.connect_qmp(negotiate=name != NEGOTIATE)) as client,
    ):
        if name == NEGOTIATE:
            client.receive()  # the greeting
        for before, arguments in spec.example.before:
            client.cmd(before, arguments)
        if spec.example.error is not None:
            with pytest.raises(QmpError) as caught:
                client.cmd(name, spec.example.arguments)
            assert caught.value.error_class == spec.example.error
            return
        result = client.cmd(name, spec.example.arguments)
        check(spec, result)


def check(spec: CommandSpec, result: object) -> None:
    """The reply is of the declared type, with no member that is not declared."""
    declared = resolved_hints(spec)["return"]
    if declared == dict[str, object]:
        assert result == {}
    else:
        assert TypeAdapter(declared).validate_python(result, strict=True, extra="forbid") == result


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_command_with_arguments_has_an_example(name: str) -> None:
    spec = COMMANDS[name]
    assert spec.example.arguments or not spec.needs_arguments
