# SPDX-License-Identifier: Apache-2.0
"""Host memory of the guest: every option of a memory backend does what it says (as /proc/self/smaps shows it)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from vmmd.errors import BackendError, UsageError
from vmmd.machine.objects.memory import settings
from vmmd.machine.ram import RamBlock, RamSettings
from vmmd.options.models import MachineOptions
from vmmd.options.objects import MemoryBackendFile, MemoryBackendMemfd, MemoryBackendRam
from vmmd.units import KiB, MiB, format_size

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 4 * MiB


def flags(block: RamBlock) -> set[str]:
    """VmFlags of the mapping (Documentation/filesystems/proc.rst)."""
    with open("/proc/self/smaps", encoding="ascii") as maps:
        inside = False
        for line in maps:
            first = line.split(" ", 1)[0]
            if "-" in first:
                low, high = (int(part, 16) for part in first.split("-"))
                inside = low <= block.hva < high
            elif inside and line.startswith("VmFlags:"):
                return set(line.split()[1:])
    raise AssertionError("the mapping is not there")


@pytest.mark.parametrize("reserve", [True, False])
@pytest.mark.parametrize("kind", ["ram", "memfd"])
def test_reserve_off_maps_without_reservation(kind: str, reserve: bool) -> None:
    block = RamBlock("m", RamSettings(kind=kind, size_bytes=SIZE, reserve=reserve))
    assert ("nr" in flags(block)) is not reserve
    block.close()


@pytest.mark.parametrize("seal", [True, False])
def test_sealed_memfd_keeps_its_size(seal: bool) -> None:
    block = RamBlock("m", RamSettings(kind="memfd", size_bytes=SIZE, share=True, seal=seal))
    assert block.fd is not None
    for other_size in (SIZE // 2, 2 * SIZE):
        if seal:
            with pytest.raises(PermissionError):
                os.ftruncate(block.fd, other_size)
        else:
            os.ftruncate(block.fd, other_size)
    block.close()


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("dump", [True, False])
def test_merge_and_dump_mark_the_mapping(merge: bool, dump: bool) -> None:
    shown = flags(RamBlock("m", RamSettings(size_bytes=SIZE, merge=merge, dump=dump)))
    assert ("mg" in shown) is merge
    assert ("dd" in shown) is not dump


def test_backend_that_does_not_say_follows_the_machine() -> None:
    machine = MachineOptions.from_items([("mem-merge", "off"), ("dump-guest-core", "off")], "-machine")
    backend = MemoryBackendRam.from_items([("id", "m"), ("size", "4M")], "-object")
    assert settings(backend, machine)[4:6] == (False, False)
    explicit = MemoryBackendRam.from_items([("id", "m"), ("size", "4M"), ("merge", "on"), ("dump", "on")], "-object")
    made = settings(explicit, machine)
    assert (made.merge, made.dump) == (True, True)


@pytest.mark.parametrize("discard", ["on", "off"])
def test_discard_data_throws_the_content_of_a_file_away(discard: str) -> None:
    path = f"/dev/shm/vmmd-test-{os.getpid()}"
    items = [("id", "m"), ("size", "4M"), ("mem-path", path), ("share", "on"), ("discard-data", discard)]
    try:
        block = RamBlock("m", settings(MemoryBackendFile.from_items(items, "-object"), MachineOptions()))
        block.view[:4] = b"data"
        block.close()
        block.close()
        with open(path, "rb") as file:
            assert file.read(4) == (b"\0\0\0\0" if discard == "on" else b"data")
        assert os.path.getsize(path) == SIZE
    finally:
        os.unlink(path)


def test_memory_that_the_host_does_not_have_is_an_error_at_start(tmp_path: Path) -> None:
    path = tmp_path / "no" / "file"
    with pytest.raises(BackendError, match=f"^can't open backing store {path} for guest RAM: No such file or dir"):
        RamBlock("m", RamSettings(kind="file", size_bytes=SIZE, path=str(path)))


@pytest.mark.parametrize("path", ["/proc/version", "/dev/null"])
def test_a_file_that_cannot_be_memory_is_named(path: str) -> None:
    with pytest.raises(BackendError, match=r"^unable to map backing store for guest RAM: ") as caught:
        RamBlock("m", RamSettings(kind="file", size_bytes=2 * SIZE, path=path))
    assert caught.value.hint == f"mem-path={path} is to hold the {format_size(2 * SIZE)} of memory 'm'"


def test_huge_pages_have_a_size_that_there_is() -> None:
    keys = [("id", "m"), ("size", "2M"), ("hugetlb", "on")]
    with pytest.raises(UsageError, match="doesn't take value '3'; it takes a power of two"):
        MemoryBackendMemfd.from_items([*keys, ("hugetlbsize", "3")], "-object")
    with pytest.raises(BackendError, match="it wants 2 MiB of huge pages of 4 KiB"):
        RamBlock("m", RamSettings(kind="memfd", size_bytes=2 * MiB, hugetlb=True, hugetlb_size_bytes=4 * KiB))


@pytest.mark.parametrize("prealloc", [False, True])
def test_a_file_is_left_only_when_it_was_there_before(
    tmp_path: Path, prealloc: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise BackendError("no memory")

    monkeypatch.setattr(RamBlock, "preallocate" if prealloc else "_map_fd", refuse)
    new, old = tmp_path / "new", tmp_path / "old"
    old.write_bytes(b"content")
    descriptors = len(os.listdir("/proc/self/fd"))
    for path in (new, old, tmp_path):
        with pytest.raises(BackendError, match="no memory"):
            RamBlock("m", RamSettings(kind="file", size_bytes=SIZE, path=str(path), prealloc=prealloc))
    assert not new.exists()
    assert old.read_bytes().startswith(b"content")
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_file_that_is_too_large_for_the_host_is_not_left(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="unable to map backing store for guest RAM"):
        RamBlock("m", RamSettings(kind="file", size_bytes=1 << 62, path=str(tmp_path / "ram")))
    assert list(tmp_path.iterdir()) == []


def resident_bytes(block: RamBlock) -> int:
    """What the mapping holds of the host's memory."""
    with open("/proc/self/smaps", encoding="ascii") as maps:
        inside, found = False, 0
        for line in maps:
            first = line.split(" ", 1)[0]
            if "-" in first:
                low, high = (int(part, 16) for part in first.split("-"))
                inside = low < block.hva + block.size_bytes and high > block.hva
            elif inside and line.startswith("Rss:"):
                found += int(line.split()[1]) * KiB
    return found


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("kind", ["ram", "memfd", "file"])
def test_discarded_pages_go_back_to_the_host(kind: str, share: bool, tmp_path: Path) -> None:
    block = RamBlock("m", RamSettings(kind=kind, size_bytes=SIZE, share=share, path=str(tmp_path / "ram")))
    try:
        block.view[:] = b"x" * SIZE
        before = resident_bytes(block)
        assert before == SIZE
        block.discard(block.hva + MiB, 2 * MiB)
        assert resident_bytes(block) == SIZE - 2 * MiB
        if block.fd is not None and share:
            assert os.fstat(block.fd).st_blocks * 512 <= SIZE - 2 * MiB + 64 * KiB
        expected = b"x" * MiB + bytes(2 * MiB) + b"x" * MiB
        assert bytes(block.view) == expected
        block.view[MiB : 2 * MiB] = b"y" * MiB  # it is there again
        assert resident_bytes(block) >= SIZE - MiB
    finally:
        block.close()


def test_a_private_mapping_leaves_the_file_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "ram"
    path.write_bytes(b"f" * SIZE)
    block = RamBlock("m", RamSettings(kind="file", size_bytes=SIZE, share=False, path=str(path)))
    block.view[:] = b"x" * SIZE
    block.discard(block.hva, SIZE)
    assert bytes(block.view) == b"f" * SIZE
    block.close()
    assert path.read_bytes() == b"f" * SIZE


@pytest.mark.parametrize(("offset", "length"), [(1, 4096), (0, 100), (-4096, 4096), (SIZE - 4096, 8192)])
def test_only_pages_of_the_block_can_be_discarded(offset: int, length: int) -> None:
    block = RamBlock("m", RamSettings(size_bytes=SIZE))
    with pytest.raises(ValueError, match="no pages of memory 'm'"):
        block.discard(block.hva + offset, length)
    block.close()


def free_huge_pages() -> int:
    with open("/proc/meminfo", encoding="ascii") as info:
        return next(int(line.split()[1]) for line in info if line.startswith("HugePages_Free"))


@pytest.mark.skipif(free_huge_pages() < 2, reason="the host has no free huge pages")
@pytest.mark.parametrize("share", [False, True])
def test_huge_pages_go_back_whole(share: bool) -> None:
    settings_ = RamSettings(kind="memfd", size_bytes=4 * MiB, share=share, hugetlb=True, hugetlb_size_bytes=2 * MiB)
    block = RamBlock("m", settings_)
    try:
        assert block.page_bytes == 2 * MiB
        block.view[:] = b"x" * len(block.view)
        free = free_huge_pages()
        block.discard(block.hva, 2 * MiB)
        assert free_huge_pages() == free + 1
        with pytest.raises(ValueError, match="no pages"):
            block.discard(block.hva, 4096)
    finally:
        block.close()
