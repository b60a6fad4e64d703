# SPDX-License-Identifier: Apache-2.0
"""``memsave`` and ``pmemsave``: guest memory to a file on the host, while the guest may run.

Everything is checked before the file is touched, and vCPUs and loop go on: page tables are walked by the vCPU's own
thread some pages at a time, the file is written by a thread of its own.
"""

from __future__ import annotations

import os
from array import array
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from vmmd.core.background import Turn, on_thread
from vmmd.core.host_files import PATH_ACCEPTS, open_ready
from vmmd.errors import BackendError, UsageError, VmmdError
from vmmd.units import PAGE_BYTES, U64_MAX, GiB, MiB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from vmmd.qmp.vm_api import SlotApi, VmApi

#: bytes copied and written at a time
CHUNK_BYTES = MiB
#: page walks before a vCPU, or the loop, goes on
WALKS = 16
#: places in guest-physical memory that one range may be scattered over: 16 MiB to remember, 4 GiB in single pages
MAX_PIECES = 1 << 20


async def save_physical(vm: VmApi, gpa: int, size_bytes: int, path: str) -> None:
    """``pmemsave``. What is neither RAM nor ROM is zeroes in the file. Raises UsageError, BackendError."""
    # QEMU-COMPAT: QEMU takes any range, also one of 8 EiB of nothing; this one ends with the last RAM or at 4 GiB
    limit = max([4 * GiB, *(region.end for region in vm.memory.regions)])
    if gpa < 0 or size_bytes < 0 or gpa + size_bytes > limit:
        raise UsageError(
            f"Invalid addr {gpa & U64_MAX:#018x}/size {size_bytes} specified", f"memory ends at {limit:#x}"
        )
    await on_thread(vm.loop, partial(_write, vm, path, [(gpa, size_bytes)]), "pmemsave")


async def save_virtual(vm: VmApi, gva: int, size_bytes: int, path: str, cpu_index: int) -> None:
    """``memsave``: addresses as vCPU ``cpu_index`` sees them. Raises UsageError, BackendError."""
    if vm.cpus is None or not 0 <= cpu_index < len(vm.cpus.infos):
        raise UsageError("Parameter 'cpu-index' expects a CPU number")
    limit = vm.memory.size_bytes
    gva &= U64_MAX  # an address of the upper half may come as a negative number
    if not 0 <= size_bytes <= limit:
        raise UsageError(f"Invalid addr {gva:#018x}/size {size_bytes} specified", f"size is at most {limit}")
    if gva + size_bytes - 1 > U64_MAX:
        raise UsageError(f"Invalid addr {gva:#018x}/size {size_bytes} specified", f"addresses end at {U64_MAX:#x}")
    slots = [] if vm.memory_map is None else vm.memory_map.slots()
    pieces = _Pieces()
    turn = Turn(vm.loop)
    at = gva
    while at < gva + size_bytes:
        stop = min(gva + size_bytes, (at & -PAGE_BYTES) + WALKS * PAGE_BYTES)
        found = await _walk(vm, cpu_index, at, stop)
        if found is None or not all(_is_memory(slots, gpa) for gpa, _ in found):
            # QEMU-COMPAT: the first sentence; QEMU leaves a file with what came before
            raise UsageError(f"Invalid addr {gva:#018x}/size {size_bytes} specified", "a page of it is no memory")
        pieces.add(found)
        if len(pieces) > MAX_PIECES:
            raise UsageError(f"This range is scattered over more than {MAX_PIECES} places", "save it in parts")
        at = stop
        await turn.pause()
    await on_thread(vm.loop, partial(_write, vm, path, pieces), "memsave")


class _Pieces:
    """Guest-physical pieces, (address, length), one behind the other; neighbours are one piece."""

    def __init__(self) -> None:
        self._numbers = array("Q")  # address, length, address, …

    def __len__(self) -> int:
        return len(self._numbers) // 2

    def __iter__(self) -> Iterator[tuple[int, int]]:
        numbers = iter(self._numbers)
        return zip(numbers, numbers, strict=True)

    def add(self, pieces: Iterable[tuple[int, int]]) -> None:
        numbers = self._numbers
        for gpa, length in pieces:
            if numbers and numbers[-2] + numbers[-1] == gpa:
                numbers[-1] += length
            else:
                numbers.extend((gpa, length))


def _is_memory(slots: Sequence[SlotApi], gpa: int) -> bool:
    return any(slot.gpa <= gpa < slot.gpa + slot.size_bytes for slot in slots)


async def _walk(vm: VmApi, index: int, start: int, stop: int) -> list[tuple[int, int]] | None:
    """Where the bytes of a linear range are: (guest-physical address, length); None when a page is not mapped."""
    cpus = vm.cpus
    assert cpus is not None  # the caller looked
    if cpus.all_parked:
        return _pieces(partial(cpus.translate, index), start, stop)
    finished = vm.loop.create_future()
    answers: list[tuple[object, Exception | None]] = []

    def done(result: object, error: Exception | None) -> None:
        answers.append((result, error))
        finished.set_result(None)

    cpus.run_on_vcpu(index, lambda vcpu: _pieces(vcpu.translate, start, stop), done)
    await finished
    result, error = answers[0]
    if error is not None:
        raise error
    return result  # type: ignore[return-value]  # what _pieces returned


def _pieces(translate: Callable[[int], int | None], start: int, stop: int) -> list[tuple[int, int]] | None:
    pieces = []
    while start < stop:
        gpa = translate(start)
        if gpa is None:
            return None
        length = min(stop, (start & -PAGE_BYTES) + PAGE_BYTES) - start
        pieces.append((gpa, length))
        start += length
    return pieces


def _write(vm: VmApi, path: str, pieces: Iterable[tuple[int, int]]) -> None:
    """Write the pieces one behind the other. Blocks; any thread."""
    from vmmd.qmp.hmp.physical import PhysicalMemory

    memory = PhysicalMemory(vm)
    is_new = not os.path.lexists(path)
    try:
        # QEMU-COMPAT: QEMU waits for whoever opens a FIFO's other end, and all its clients with it
        file = open(path, "wb", buffering=CHUNK_BYTES, opener=open_ready)  # noqa: SIM115  # its close is a step that may fail
    except OSError as error:
        raise BackendError.from_os(f"Could not open '{path}'", error) from error
    except ValueError:
        raise UsageError(f"Parameter 'filename' expects {PATH_ACCEPTS}") from None
    try:
        with file:
            for gpa, length in pieces:
                for offset in range(0, length, CHUNK_BYTES):
                    file.write(memory.contents(gpa + offset, min(CHUNK_BYTES, length - offset)))
    except OSError as error:
        raise _unfinished(path, is_new, error) from error


def _unfinished(path: str, is_new: bool, cause: OSError) -> VmmdError:
    failed = BackendError.from_os(f"Could not write '{path}'", cause)
    if is_new:
        with suppress(OSError):
            os.unlink(path)
        failed.hint = "the file was removed"
    else:
        failed.hint = "what was in the file is lost, what is there now is not complete"
    return failed
