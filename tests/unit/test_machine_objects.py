# SPDX-License-Identifier: Apache-2.0
"""machine.objects: memory, threads, random bytes, secrets and limits, made, changed and removed."""

from __future__ import annotations

import base64
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from vmmd.core.tree import ObjectTree
from vmmd.errors import BackendError, StateError, UsageError
from vmmd.machine.objects import secret
from vmmd.machine.objects.store import ObjectStore
from vmmd.options.models import Config
from vmmd.options.objects import OBJECTS

if TYPE_CHECKING:
    from pathlib import Path

KEY = base64.b64encode(bytes(range(32))).decode()
IV = base64.b64encode(bytes(16)).decode()


class Store(ObjectStore):
    def __init__(self) -> None:
        self.tree = ObjectTree()
        super().__init__(self.tree, Config())

    def make(self, qom_type: str, **keys: Any) -> Any:
        items = [(key.replace("_", "-"), value) for key, value in {"id": "o", **keys}.items()]
        return self.add(OBJECTS[qom_type].from_items(items, "-object"))

    def set(self, name: str, value: object) -> None:
        self.tree.resolve("/objects/o").set(name, value)

    def shown(self, name: str) -> object:
        return self.tree.resolve("/objects/o").get(name)


@pytest.fixture
def store() -> Any:
    made = Store()
    yield made
    made.close()


def flags(address: int) -> list[str]:
    """The kernel's marks of the mapping at an address."""
    found: list[str] = []
    with open("/proc/self/smaps", encoding="ascii") as file:
        inside = False
        for line in file:
            head = line.split()[0]
            if "-" in head and head[0] in "0123456789abcdef":
                low, high = (int(part, 16) for part in head.split("-"))
                inside = low <= address < high
            elif inside and head == "VmFlags:":
                found = line.split()[1:]
    return found


def resident_pages() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1])


def test_memory_is_there_until_it_is_removed(store: Store) -> None:
    block = store.make("memory-backend-ram", size="3M").block
    block.view[:3] = b"abc"
    assert store.shown("size") == 3 << 20
    address = block.hva
    assert flags(address)
    store.remove("o")
    with pytest.raises(ValueError, match="released"):
        block.view[0]
    with pytest.raises(ValueError, match="closed"):
        block._map.size()


def test_merge_and_dump_change_the_mapping(store: Store) -> None:
    block = store.make("memory-backend-ram", size="4M").block
    assert (store.shown("merge"), "mg" in flags(block.hva)) == (True, True)
    store.set("merge", False)
    assert (store.shown("merge"), "mg" in flags(block.hva)) == (False, False)
    store.set("dump", False)
    assert "dd" in flags(block.hva)
    store.set("dump", True)
    assert "dd" not in flags(block.hva)


def test_preallocated_memory_is_resident(store: Store) -> None:
    before = resident_pages()
    store.make("memory-backend-ram", size="32M", prealloc="on")
    assert resident_pages() - before >= (30 << 20) // 4096


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("size", 4096, "cannot change property size of memory-backend-ram "),
        ("share", True, "cannot change property value"),
        ("prealloc", True, "cannot change property value"),
        ("merge", "on", "Invalid parameter type for 'merge', expected: boolean"),
        ("nix", 1, "Property 'memory-backend-ram.nix' not found"),
        ("type", "x", "Property 'memory-backend-ram.type' is not writable"),
    ],
)
def test_what_does_not_change(store: Store, name: str, value: object, sentence: str) -> None:
    store.make("memory-backend-ram", size="1M")
    with pytest.raises(UsageError) as caught:
        store.set(name, value)
    assert caught.value.desc == sentence


def test_memory_in_use_stays(store: Store) -> None:
    store.make("memory-backend-ram", size="1M").users.append("the machine")
    with pytest.raises(StateError, match="object 'o' is in use, can not be deleted"):
        store.remove("o")
    assert store.get("o") is not None


def test_ids_are_unique_and_known(store: Store) -> None:
    store.make("rng-builtin")
    with pytest.raises(UsageError, match="attempt to add duplicate property 'o' to object"):
        store.make("iothread")
    with pytest.raises(UsageError, match="object 'x' not found"):
        store.remove("x")
    store.remove("o")
    assert list(store.tree.objects.children) == []


def test_there_are_so_many_and_no_more(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmmd.machine.objects.store.MAX_OBJECTS", 2)
    coming = store.prepare(OBJECTS["rng-builtin"].from_items([("id", "coming")], "-object"))
    store.make("rng-builtin", id="a")
    with pytest.raises(UsageError, match="There are 2 objects already"):
        store.make("rng-builtin", id="b")
    store.forget(coming)
    store.make("rng-builtin", id="b")


def test_what_cannot_be_opened_leaves_nothing(store: Store, tmp_path: Path) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(BackendError, match=r"Could not open '.*nix': No such file"):
        store.make("rng-random", filename=str(tmp_path / "nix"))
    with pytest.raises(BackendError, match="cannot set up guest memory 'o'"):
        store.make("memory-backend-memfd", size="1M", hugetlb="on")  # smaller than a huge page
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert list(store) == []
    store.make("rng-random")  # the id is free


def test_rng_random_holds_its_file(store: Store) -> None:
    store.make("rng-random", filename="/dev/zero")
    links = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    assert "/dev/zero" in links
    assert (store.shown("opened"), store.shown("filename")) == (True, "/dev/zero")
    with pytest.raises(UsageError, match="Property 'filename' can no longer be set"):
        store.set("filename", "/dev/null")


# --- iothread ---------------------------------------------------------------------------------------------------------


def test_iothread_is_a_thread_that_does_its_work_in_order(store: Store) -> None:
    thread = store.make("iothread", poll_max_ns="100000")
    assert os.path.exists(f"/proc/self/task/{thread.thread_id}")
    assert thread.thread_id != os.getpid()
    done: list[tuple[int, int]] = []
    finished = threading.Event()
    store.set("aio-max-batch", 3)
    for number in range(100):
        thread.submit(lambda number=number: done.append((number, threading.get_native_id())))
    thread.submit(lambda: 1 // 0)  # what fails does not end it
    thread.submit(finished.set)
    assert finished.wait(10)
    assert done == [(number, thread.thread_id) for number in range(100)]
    store.remove("o")
    assert not thread._thread.is_alive()


def test_iothread_parameters_change_and_are_checked(store: Store) -> None:
    thread = store.make("iothread")
    for name in ("poll-max-ns", "poll-grow", "poll-shrink", "aio-max-batch"):
        store.set(name, 5)
        assert store.shown(name) == 5
        with pytest.raises(UsageError, match=rf"{name} value must be in range \[0, 9223372036854775807\]"):
            store.set(name, -1)
        assert store.shown(name) == 5
    assert thread.options.poll_max_ns == 5
    for wrong in ("x", "5", 1.5, None, True, 1 << 64):
        with pytest.raises(UsageError, match="Invalid parameter type for 'poll-max-ns', expected: integer"):
            store.set("poll-max-ns", wrong)


def test_busy_wait_follows_the_parameters(store: Store) -> None:
    thread = store.make("iothread", poll_max_ns="1000000", poll_grow="4", poll_shrink="2")
    store.remove("o")  # the thread has ended: now its parts by hand
    thread._stopping = False
    assert thread._poll(1000) == 500  # for nothing: half of it the next time
    thread.submit(lambda: None)
    assert thread._poll(8000) == 32000
    assert thread._poll(500_000) == 1_000_000
    thread.options = thread.options.changed("poll_max_ns", 0)
    assert thread._poll(8000) == 0


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_secret_from_data_and_file(store: Store, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"aGVsbG8=\n")
    assert store.make("secret", id="a", file=str(key), format="base64").value == b"hello"
    assert store.make("secret", id="b", data="x,y").value == b"x,y"
    assert store.make("secret", id="c", file=str(key)).value == b"aGVsbG8=\n"


def test_a_secret_is_never_shown(store: Store) -> None:
    store.make("secret", data="hunter2")
    with pytest.raises(UsageError, match=r"Property 'secret.data' is not readable"):
        store.shown("data")
    assert "hunter2" not in repr([store.shown(name) for name in ("file", "format", "keyid", "iv", "loaded")])


def test_secret_from_a_pipe(store: Store, tmp_path: Path) -> None:
    """The start waits for whoever writes, as a shell's <(…) needs it; object-add would keep its session for ever."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"hello",))
    writer.start()
    assert store.make("secret", id="a", file=str(pipe)).value == b"hello"
    writer.join()
    late = store.prepare(OBJECTS["secret"].from_items([("id", "b"), ("file", str(pipe))], "object-add"))
    with pytest.raises(BackendError, match=f"Unable to read {pipe}: it is a pipe or a socket"):
        late.open()
    store.forget(late)


def test_bad_secret_does_not_show_its_content(store: Store) -> None:
    with pytest.raises(UsageError, match="Base64 data contains invalid characters") as caught:
        store.make("secret", data="hunter2!", format="base64")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"keyid": "nix", "iv": IV}, "No secret with id 'nix'"),
        ({"keyid": "rng", "iv": IV}, "Object with id 'rng' is not a secret"),
        ({"keyid": "short", "iv": IV}, "Key should be 32 bytes in length"),
        ({"keyid": "key", "iv": "AAAA"}, "IV should be 16 bytes in length not 3"),
        ({"keyid": "key", "iv": IV}, "Length 4 must be a multiple of block size 16"),
        ({"keyid": "key"}, "IV is required to decrypt secret"),
    ],
)
def test_encrypted_secret_that_does_not_fit(store: Store, keys: dict[str, str], sentence: str) -> None:
    store.make("secret", id="key", data=KEY, format="base64")
    store.make("secret", id="short", data="abc")
    store.make("rng-builtin", id="rng")
    with pytest.raises(UsageError) as caught:
        store.make("secret", data="aaaa", **keys)
    assert caught.value.desc == sentence


def test_decrypted_padding_is_checked_and_removed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Around the cipher itself, which ``test_qom`` compares with QEMU's where the library is there."""
    store.make("secret", id="key", data=KEY, format="base64")
    asked: list[tuple[bytes, bytes, bytes]] = []

    def cipher(raw: bytes, key: bytes, iv: bytes) -> bytes:
        asked.append((raw, key, iv))
        return plain

    monkeypatch.setattr(secret, "_aes_cbc", cipher)
    plain = b"letmein" + b"\x09" * 9
    text = base64.b64encode(b"0123456789abcdef").decode()
    assert store.make("secret", id="good", data=text, format="base64", keyid="key", iv=IV).value == b"letmein"
    assert asked == [(b"0123456789abcdef", bytes(range(32)), bytes(16))]
    for end in (b"\xb4", b"\x00", b"\x02"):
        plain = b"x" * 15 + end
        with pytest.raises(UsageError, match="Incorrect number of padding bytes"):
            store.make("secret", data=text, format="base64", keyid="key", iv=IV)


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        ({"iops-total": 1, "iops-read": 1}, "bps/iops/max total values and read/write values"),
        ({"bps-total": 1, "bps-write": 1}, "bps/iops/max total values and read/write values"),
        ({"iops-total": -1}, "bps/iops/max values must be within [0, 1000000000000000]"),
        ({"iops-total": 10**15 + 1}, "bps/iops/max values must be within [0, 1000000000000000]"),
        ({"iops-total-max": 10}, "bps_max/iops_max require corresponding bps/iops values"),
        ({"iops-total": 10, "iops-total-max": 5}, "bps_max/iops_max cannot be lower than bps/iops"),
        ({"iops-total": 10, "iops-total-max": 20, "iops-total-max-length": 0}, "the burst length cannot be 0"),
        ({"iops-total-max-length": 5}, "burst length set without burst rate"),
        ({"iops-total": 9, "iops-total-max": 20, "iops-total-max-length": 1 << 32}, "iops-total-max-length value"),
        ({"iops-total": 9, "iops-total-max": 1 << 49, "iops-total-max-length": 9}, "burst length too high"),
        ({"iops-size": 5}, "iops size requires an iops value to be set"),
    ],
)  # fmt: skip
def test_limits_that_contradict_each_other(store: Store, limits: dict[str, int], sentence: str) -> None:
    store.make("throttle-group")
    before = store.shown("limits")
    with pytest.raises(UsageError) as caught:
        store.set("limits", limits)
    assert caught.value.desc.startswith(sentence)
    assert store.shown("limits") == before
    with pytest.raises(UsageError):  # the same ones from the start
        store.make("throttle-group", id="p", **{f"limits.{name}": str(value) for name, value in limits.items()})


def test_limits_change_in_part(store: Store) -> None:
    store.make("throttle-group", **{"x-bps-total": "7", "limits.iops-total": "100", "limits.iops-total-max": "200"})
    store.set("limits", {"iops-total": 150})
    shown = store.shown("limits")
    assert isinstance(shown, dict)
    assert (shown["iops-total"], shown["iops-total-max"], shown["bps-total"]) == (150, 200, 7)
    assert (store.shown("x-iops-total"), store.shown("x-bps-total-max-length")) == (150, 1)
    with pytest.raises(UsageError, match="Property cannot be set after initialization"):
        store.set("x-iops-total", 5)
    with pytest.raises(UsageError, match=r"Parameter 'limits\.nix' is unexpected"):
        store.set("limits", {"nix": 5})
    with pytest.raises(UsageError, match=r"Invalid parameter type for 'limits\.bps-read', expected: integer"):
        store.set("limits", {"bps-read": True})
