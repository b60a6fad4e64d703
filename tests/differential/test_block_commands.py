# SPDX-License-Identifier: Apache-2.0
"""Block nodes and their queries on a machine that has not started: as QEMU 7.2 answers.

Left out because QEMU 7.2 dies of it: blockdev-add of a null-co with a negative size.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.differential.same_lines import Row, check, error, run

pytestmark = [pytest.mark.kvm, pytest.mark.qemu]

FORMAT = '"driver": "raw", "node-name"'
ONE_USER = "QEMU lets several nodes share one as long as none writes; here a node has one user"
ROWS = (
    Row("query-block"),
    Row("query-named-block-nodes"),
    Row("query-block-jobs"),
    Row("!info block-jobs"),
    Row('blockdev-add {"driver": "null-co", "node-name": "n0"}'),
    Row('blockdev-add {"driver": "null-co", "node-name": "n0"}'),
    Row('blockdev-add {"driver": "null-co"}'),
    Row('blockdev-add {"node-name": "x"}'),
    Row("blockdev-add"),
    Row('blockdev-add {"driver": "bogus", "node-name": "x"}'),
    Row('blockdev-add {"driver": 5, "node-name": "x"}'),
    Row('blockdev-add {"driver": "null-co", "node-name": "x", "size": "1"}'),
    Row('blockdev-add {"driver": "null-co", "node-name": "x", "bogus": 1}'),
    Row('blockdev-add {"driver": "null-co", "node-name": "1x"}'),
    Row('blockdev-add {"driver": "null-co", "node-name": ""}'),
    Row(f'blockdev-add {{"driver": "null-co", "node-name": "{"a" * 32}"}}'),
    Row('blockdev-add {"driver": "null-aio", "node-name": "n1", "size": 4096}'),
    Row('blockdev-add {"driver": "null-co", "node-name": "n2", "latency-ns": 4096}'),
    Row('blockdev-add {"driver": "file", "node-name": "f0"}'),
    Row('blockdev-add {"driver": "file", "node-name": "f0", "filename": "@/none"}'),
    Row('blockdev-add {"driver": "file", "node-name": "f0", "filename": "@/"}'),
    Row('blockdev-add {"driver": "file", "node-name": "f0", "filename": "/dev/null"}'),
    Row('blockdev-add {"driver": "host_device", "node-name": "f0", "filename": "@/a"}'),
    Row('blockdev-add {"driver": "file", "node-name": "f0", "filename": "@/a"}'),
    Row(f'blockdev-add {{{FORMAT}: "r0", "file": "f0"}}'),
    Row(
        f'blockdev-add {{{FORMAT}: "r1", "file": "f0"}}',
        error("Node 'f0' is busy: node 'r0' uses it"),
        ONE_USER,
    ),
    Row('blockdev-del {"node-name": "f0"}'),
    Row(f'blockdev-add {{{FORMAT}: "x", "file": "nope"}}'),
    Row(f'blockdev-add {{{FORMAT}: "x"}}'),
    Row(f'blockdev-add {{{FORMAT}: "x", "file": 5}}'),
    Row(f'blockdev-add {{{FORMAT}: "x", "file": {{"filename": "@/a"}}}}'),
    Row(f'blockdev-add {{{FORMAT}: "x", "file": {{"driver": "file", "filename": "@/none"}}}}'),
    Row(f'blockdev-add {{{FORMAT}: "x", "file": {{"driver": "null-co", "node-name": "x"}}}}'),
    Row(f'blockdev-add {{{FORMAT}: "x", "file": {{"driver": "null-co"}}, "size": 513}}'),
    Row(f'blockdev-add {{{FORMAT}: "x", "file": {{"driver": "null-co", "size": 1024}}, "size": 51200}}'),
    Row(f'blockdev-add {{{FORMAT}: "x", "file": {{"driver": "null-co", "size": 1024}}, "offset": 51200}}'),
    Row(f'blockdev-add {{{FORMAT}: "x", "file": "n0", "force-share": true}}'),
    Row(f'blockdev-add {{{FORMAT}: "x", "file": "n0", "cache": {{"direct": true, "x": 1}}}}'),
    Row(f'blockdev-add {{{FORMAT}: "x", "file": "n0", "cache": {{"direct": 1}}}}'),
    Row(
        f'blockdev-add {{{FORMAT}: "x", "file": {{"driver": "file", "filename": "@/b", "read-only": true}}}}',
        error("Block node '#block' is read-only; add read-only=on to 'x'"),
        "QEMU says so when a device wants to write",
    ),
    Row('blockdev-del {"node-name": "x"}', error("Failed to find node with node-name='x'"), "of the row before"),
    Row(f'blockdev-add {{{FORMAT}: "r5", "file": "n0", "cache": {{"direct": true}}}}'),
    Row(f'blockdev-add {{{FORMAT}: "r6", "read-only": true, "file": {{"driver": "file", "filename": "@/b"}}}}'),
    Row(
        f'blockdev-add {{{FORMAT}: "r7", "size": 4096, "offset": 512, "discard": "unmap",'
        ' "file": {"driver": "file", "node-name": "f7", "filename": "@/c", "locking": "on"}}'
    ),
    Row('blockdev-del {"node-name": "f7"}'),
    Row('blockdev-del {"node-name": "nope"}'),
    Row("blockdev-del"),
    Row('block_resize {"node-name": "r0", "size": 3000000}'),
    Row('block_resize {"node-name": "f0", "size": 2097152}'),
    Row('block_resize {"node-name": "n0", "size": 4096}'),
    Row('block_resize {"node-name": "r5", "size": 4096}'),
    Row('block_resize {"node-name": "r7", "size": 4096}'),
    Row('block_resize {"node-name": "n0", "size": -1}'),
    Row('block_resize {"node-name": "nope", "size": 1}'),
    Row('block_resize {"device": "nope", "size": 1}'),
    Row('block_resize {"size": 1}'),
    Row('block_resize {"node-name": "r0"}'),
    Row('query-named-block-nodes {"flat": true}', {}, "node r1 of above is missing"),
    Row('query-blockstats {"query-nodes": true}', {}, "node r1 of above is missing"),
    Row("query-blockstats"),
    Row('blockdev-del {"node-name": "r1"}', error("Failed to find node with node-name='r1'"), ONE_USER),
    Row('query-named-block-nodes {"flat": true}'),
    Row('query-blockstats {"query-nodes": true}'),
    Row('blockdev-del {"node-name": "r0"}'),
    Row('blockdev-del {"node-name": "f0"}'),
    Row('blockdev-del {"node-name": "r7"}'),
    Row('blockdev-add {"driver": "file", "node-name": "f7", "filename": "@/c"}'),
    Row('query-named-block-nodes {"flat": true}'),
)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    made = {}
    for name in ("vmmd", "qemu"):
        directory = tmp_path_factory.mktemp(name)
        for image in ("a", "b", "c"):
            with (directory / image).open("wb") as file:
                file.truncate(1 << 20)
        made[name] = run(name, ["-machine", "pc,accel=kvm", "-m", "16", "-nodefaults", "-S"], ROWS, directory)
    return made


@pytest.mark.parametrize("number", range(len(ROWS)), ids=[row.line[:90] for row in ROWS])
def test_it_is_answered_as_by_qemu(number: int, answers: dict[str, list[Any]]) -> None:
    check(ROWS[number], answers["vmmd"][number], answers["qemu"][number])
