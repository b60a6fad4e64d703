# SPDX-License-Identifier: Apache-2.0
"""Commands of the monitor for people: the same lines to QEMU and vmmd, in one order, on machines made alike."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.differential.same_lines import Row, check, run
from tests.framework.vm import Vm, emulator

pytestmark = [pytest.mark.kvm, pytest.mark.qemu]

ARGUMENTS = (
    "-machine", "pc,accel=kvm", "-m", "32", "-smp", "2", "-nodefaults", "-S", "-name", "people",
    "-chardev", "ringbuf,id=ring,size=64",
)  # fmt: skip


def says(text: str) -> dict[str, Any]:
    return {"return": text.replace("\n", "\r\n")}


NOT_RUNNING = says("Error: VM not running; cont lets it run\n")
ROWS = (
    Row("!info status"), Row("!info name"), Row("!info uuid"), Row("!info numa"), Row("!info usb"), Row("!info vnc"),
    Row("!info network"), Row("!info balloon"), Row("!info tpm"), Row("!info vm-generation-id"), Row("!info chardev"),
    Row("!info iothreads"), Row("!info hotpluggable-cpus"), Row("!info cpus"), Row("!info mem"), Row("!info tlb"),
    Row("!info status x"), Row("!info bogus"), Row("!bogus"), Row("!"), Row("!cpu 1"), Row("!cpu 7"), Row("!cpu"),
    Row("!i/b 0x80"), Row("!i /w 0xcf8"), Row("!i/xb 0x70"), Row("!i/2b 0x70"), Row("!i/b 0x70.0x0b"), Row("!i/g 0x70"),
    Row("!i/b 0xcf8cf"), Row("!i"), Row("!i/q 0"), Row("!o/b 0x80 0x12"), Row("!o 0x80"), Row("!o/w 0x80 1 2"),
    Row("!nmi"), Row("!nmi 1"),
    Row("!sendkey a"), Row("!sendkey ctrl-alt-delete 100"), Row("!sendkey 0x1e-0xffff"), Row("!sendkey a -1"),
    Row("!info mice"), Row("!mouse_set 2"), Row("!mouse_set 1"), Row("!mouse_set 99"), Row("!mouse_set x"),
    Row("!mouse_set"), Row("!mouse_set 2 3"), Row("!mouse_set -1"), Row("!mouse_button"), Row("!mouse_button x"),
    Row("!mouse_button 0"), Row("!mouse_move"), Row("!mouse_move 1"), Row("!mouse_move 1 1 1 1"),
    Row("!mouse_move 1 2", NOT_RUNNING, "QEMU drops it and says nothing"),
    Row("!mouse_button 1", NOT_RUNNING, "QEMU drops it and says nothing"),
    Row(
        "!mouse_move a b",
        says("invalid number: 'a'\nTry \"help mouse_move\" for more information\n"),
        "QEMU takes what is no number as 0",
    ),
    Row("!sendkey foo"), Row("!sendkey a--b"), Row("!sendkey 0x"), Row("!sendkey"), Row("!sendkey a 1 2"),
    Row("!set_link bogus off"), Row("!set_link bogus foo"), Row("!set_link bogus"), Row("!set_link"),
    Row("!balloon 16"), Row("!balloon -1"), Row("!balloon"), Row("!balloon 16M"), Row("!balloon foo"),
    Row("!memsave 0 16 /x"), Row("!memsave"), Row("!memsave 0"), Row("!pmemsave 0 16"), Row('!pmemsave 0 16 "/"'),
    Row('!memsave 0 16 "/dev/null"'), Row('!pmemsave 0 16 "/dev/null"'),
    Row("!ringbuf_write ring hello"), Row("!ringbuf_read ring 3"), Row("!ringbuf_read ring 30"),
    Row('!ringbuf_write ring "a\\nb\\\\c"'), Row("!ringbuf_read ring 30"), Row("!ringbuf_read ring"),
    Row("!ringbuf_write ring two words"), Row("!ringbuf_write ring"), Row("!ringbuf_read bogus 3"),
    Row("!chardev-add null,id=c1"), Row("!info chardev"), Row("!chardev-send-break c1"), Row("!chardev-change c1 null"),
    Row("!chardev-change bogus null"), Row("!chardev-send-break bogus"), Row("!chardev-remove c1"),
    Row("!chardev-remove c1"), Row("!chardev-remove"),
    Row(
        "!chardev-add bogus,id=x",
        says(
            "Error: chardev backend=bogus: 'bogus' is not a valid char driver name; "
            "known are: file, memory, null, pty, ringbuf, socket, stdio\n"
        ),
        "names the option first",
    ),
    Row("!object_add rng-random,id=rn"), Row("!object_add rng-random,id=rn"), Row("!object_del rn"),
    Row("!object_del rn"), Row("!object_del"), Row("!object_add memory-backend-ram,id=m1,size=1M"),
    Row("!object_add rng-random"),
    Row("!getfd a"), Row("!closefd a"), Row("!getfd"), Row("!watchdog_action none"), Row('!closefd ""'),
    Row('!object_del ""'), Row("!device_del x y"), Row('!drive_del ""'), Row("!drive_del x y"), Row("!drive_del"),
    Row('!block_resize "" 1'), Row('!block_resize x ""'), Row("!block_resize x"), Row('!qom-get "" ""'),
    Row("!qom-get /machine"), Row("!logfile"), Row('!logfile ""'), Row("!log"), Row('!trace-event "" on'),
    Row("!trace-event x"), Row('!info stats ""'), Row("!info stats"), Row("!chardev-add"), Row("!chardev-change x"),
    Row("!device_add"), Row("!object_add"), Row("!drive_add 0"),
    Row("!p $eflags"), Row("!p/d $cs"), Row("!p/x $pc"), Row("!x/3xw 0xffff0"), Row("!xp/16cb 0xfffffff0"),
    Row("!gva2gpa 0"), Row("!info pic"), Row("!info irq"), Row("!info history"),
    Row("!info registers"), Row("!info registers -a"), Row("!info registers 1"),
    Row("!info registers 9"), Row("!stop 1"), Row("!help bogus"),
)  # fmt: skip


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    directory = tmp_path_factory.mktemp("monitors")
    return {name: [_normal(each) for each in run(name, ARGUMENTS, ROWS, directory)] for name in ("vmmd", "qemu")}


def _normal(answer: Any) -> Any:
    """Without what is different in every run: threads, where the monitor listens, and whether the timer (which runs in
    the kernel) has asked for an interrupt. Paths of vCPUs, and the order of character devices, are not QEMU's."""
    if "filename=" in answer.get("return", ""):
        answer["return"] = "".join(sorted(answer["return"].splitlines(keepends=True)))
    text = re.sub(r"thread_id=\d+", "thread_id=N", json.dumps(answer))
    text = re.sub(r"pic0: irr=0[01]", "pic0: irr=N", text)
    text = re.sub(r"unix:/[^,]*monitor\.sock", "unix:MONITOR", text)
    return json.loads(re.sub(r"device\[\d+\]", "device[N]", text))


def test_address_spaces_have_qemus_roots() -> None:
    texts = {}
    for name in ("vmmd", "qemu"):
        with Vm(emulator(name), ARGUMENTS, serial=False) as vm:
            texts[name] = vm.qmp.hmp("info mtree") + vm.qmp.hmp("info version")
    roots = re.findall(r"address-space: .*\r\n  0.*\r\n", texts["vmmd"])
    assert len(roots) == 2
    for root in roots:
        assert root in texts["qemu"]
    for text in texts.values():
        assert re.search(r"^7\.2\.\d+\S", text, re.MULTILINE)


def test_a_numa_node_is_shown_alike() -> None:
    node = ("-object", "memory-backend-ram,id=m0,size=32M", "-numa", "node,memdev=m0")
    texts = []
    for name in ("vmmd", "qemu"):
        with Vm(emulator(name), (*ARGUMENTS, *node), serial=False) as vm:
            text = vm.qmp.hmp("info numa") + vm.qmp.hmp("info hotpluggable-cpus")
            texts.append(re.sub(r"device\[\d+\]", "device[N]", text))
    assert texts[0] == texts[1]
    assert texts[0].startswith("1 nodes\r\nnode 0 cpus: 0 1\r\n")


@pytest.mark.parametrize("index", range(len(ROWS)), ids=[row.line for row in ROWS])
def test_the_texts_are_qemus(answers: dict[str, list[Any]], index: int) -> None:
    check(ROWS[index], answers["vmmd"][index], answers["qemu"][index])
