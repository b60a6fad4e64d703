# SPDX-License-Identifier: Apache-2.0
"""Typed models of ``-object`` and object-add: memory, threads, randomness, secrets, limits. Key names are QEMU's.

One declaration is the command line's, QMP's and the object tree's. ``check_values`` holds what values say together; it
is also asked before a live property changes. What QEMU knows and this version does not have is refused by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from vmmd.core.props import BOOL, PATH, SIZE, STR, enum_type, int_type, prop
from vmmd.errors import UsageError
from vmmd.options.fields import COUNT, NOTHING, ONLY_OFF, RANGES, OptionSet

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

    from vmmd.core.props import Prop
    from vmmd.options.fields import Items

INT64_MAX = (1 << 63) - 1
INT64 = int_type("int", -(1 << 63), INT64_MAX)


#: QEMU's words for the types of values of objects, where they are not those of devices
_TYPE_WORDS = {"str": "string", "size": "int"}


def type_word(declared: Prop[Any]) -> str:
    """The type of a property of an object, as introspection names it."""
    return _TYPE_WORDS.get(declared.kind.qapi_name, declared.kind.qapi_name)


class ObjectOptions(OptionSet):
    """``-object TYPE,id=…``."""

    qom_type: ClassVar[str] = ""
    parent_type: ClassVar[str] = "object"
    #: wire names of properties whose values nobody may read back
    write_only: ClassVar[frozenset[str]] = frozenset()
    id = prop(STR, "", "name of the object", required=True)

    def check(self, where: str) -> None:
        super().check(where)
        try:
            self.check_values()
        except UsageError as error:
            error.desc = f"{where}: {error.desc}"
            raise

    def check_values(self) -> None:
        """Raises UsageError for what the values say together, without naming option or command."""

    @classmethod
    def visible(cls) -> Iterable[Prop[Any]]:
        """What the object tree shows: all but the id, and what this version does not have."""
        for name, declared in cls.declared.items():
            harmless = cls.later.get(name)
            if name != "id" and "." not in name and (harmless is None or (declared.kind.values and harmless)):
                yield declared

    def changed(self, attribute: str, value: object) -> Self:
        """A checked copy with one other value. Raises UsageError."""
        copy = type(self)()
        copy.values = {**self.values, attribute: value}
        copy.given = set(self.given)
        copy.check_values()
        return copy


# --- memory -----------------------------------------------------------------------------------------------------------


class MemoryBackend(ObjectOptions):
    """What all memory backends take."""

    parent_type = "memory-backend"
    size_bytes = prop(SIZE, 0, "bytes of memory", wire="size", required=True)
    share = prop(BOOL, False, "visible to other processes")
    prealloc = prop(BOOL, False, "touch every page at start")
    prealloc_threads = prop(COUNT, 1, "threads that touch them")
    prealloc_context = prop(STR, None, "thread context object")
    merge = prop(BOOL, None, "let the host merge equal pages", live=True)
    dump = prop(BOOL, None, "include in core dumps", live=True)
    reserve = prop(BOOL, True, "reserve swap or huge pages")
    policy = prop(enum_type("HostMemPolicy", "default", "preferred", "bind", "interleave"), "default", "NUMA policy")
    host_nodes = prop(RANGES, (), "host NUMA nodes, 0-1; may be repeated")
    x_use_canonical_path_for_ramblock_id = prop(BOOL, None, "name of the block in migration streams")

    repeatable: ClassVar = frozenset({"host-nodes"})
    later: ClassVar = {
        "prealloc-threads": (1,),
        "prealloc-context": NOTHING,
        "policy": ("default",),
        "host-nodes": NOTHING,
        "x-use-canonical-path-for-ramblock-id": NOTHING,
    }

    def check_values(self) -> None:
        if self.size_bytes == 0:
            raise UsageError(f"property 'size' of {self.qom_type} doesn't take value '0'", "it takes a size above 0")


class MemoryBackendRam(MemoryBackend):
    qom_type = "memory-backend-ram"


class MemoryBackendMemfd(MemoryBackend):
    qom_type = "memory-backend-memfd"
    share = prop(BOOL, True, "visible to other processes")
    hugetlb = prop(BOOL, False, "use huge pages")
    hugetlbsize = prop(SIZE, 0, "size of a huge page: 2M, 1G; 0: the host's default")
    seal = prop(BOOL, True, "forbid growing and shrinking")

    def check_values(self) -> None:
        super().check_values()
        if self.hugetlbsize & (self.hugetlbsize - 1):
            what = f"property 'hugetlbsize' of {self.qom_type} doesn't take value '{self.hugetlbsize}'"
            raise UsageError(what, "it takes a power of two")


class MemoryBackendFile(MemoryBackend):
    qom_type = "memory-backend-file"
    mem_path = prop(PATH, "", "file or directory (of hugetlbfs)", required=True)
    discard_data = prop(BOOL, False, "throw the content away at exit", live=True)
    align = prop(SIZE, None, "alignment of the mapping")
    pmem = prop(BOOL, False, "persistent memory")
    readonly = prop(BOOL, False, "map read-only")

    later: ClassVar = {
        **MemoryBackend.later,
        "pmem": ONLY_OFF,
        "align": NOTHING,
        "readonly": ONLY_OFF,  # what it can be used for is RAM
    }


# --- threads ----------------------------------------------------------------------------------------------------------


class IoThread(ObjectOptions):
    """``-object iothread``: a thread for work of devices."""

    qom_type = "iothread"
    parent_type = "event-loop-base"
    poll_max_ns = prop(INT64, 32768, "longest busy wait for the next piece of work in ns; 0: none", live=True)
    poll_grow = prop(INT64, 0, "factor by which a busy wait that was too short grows; 0: vmmd's choice", live=True)
    poll_shrink = prop(INT64, 0, "divisor of a busy wait that was for nothing; 0: none at all then", live=True)
    aio_max_batch = prop(INT64, 0, "pieces of work in one go; 0: vmmd's choice", live=True)
    thread_pool_min = prop(INT64, 0, "threads kept for blocking work")
    thread_pool_max = prop(INT64, 64, "threads for blocking work at most")

    later: ClassVar = {"thread-pool-min": (0,), "thread-pool-max": (64,)}

    def check_values(self) -> None:
        for declared in self.declared.values():
            if declared.kind is INT64 and self.values.get(declared.name, 0) < 0:
                raise UsageError(f"{declared.wire_name} value must be in range [0, {INT64_MAX}]")
        if self.thread_pool_max < max(self.thread_pool_min, 1):
            raise UsageError("bad thread-pool-min/thread-pool-max values")


# --- randomness and secrets -------------------------------------------------------------------------------------------


class RngRandom(ObjectOptions):
    """``-object rng-random``: random bytes from a file."""

    qom_type = "rng-random"
    parent_type = "rng-backend"
    filename = prop(PATH, "/dev/urandom", "file that the bytes are read from")


class RngBuiltin(ObjectOptions):
    """``-object rng-builtin``: random bytes from the kernel, without a file."""

    qom_type = "rng-builtin"
    parent_type = "rng-backend"


class Secret(ObjectOptions):
    """``-object secret``: a password or key. Read when the object is made."""

    qom_type = "secret"
    parent_type = "secret_common"
    data = prop(STR, None, "the secret itself, seen by everyone who sees the process list")
    file = prop(PATH, None, "file with the secret")
    format = prop(enum_type("QCryptoSecretFormat", "raw", "base64"), "raw", "how it is written")
    keyid = prop(STR, None, "id of the secret that this one is encrypted with (AES-256-CBC)")
    iv = prop(STR, None, "initialization vector, base64")

    # QEMU-COMPAT: QEMU shows it to every client of a monitor
    write_only: ClassVar = frozenset({"data"})

    def check_values(self) -> None:
        if self.data is not None and self.file is not None:
            raise UsageError("'file' and 'data' are mutually exclusive", "a secret has one source")
        if self.data is None and self.file is None:
            raise UsageError("Either 'file' or 'data' must be provided", "file=PATH, or data= where nobody looks")


# --- limits -----------------------------------------------------------------------------------------------------------

LIMIT_KINDS = ("bps-total", "bps-read", "bps-write", "iops-total", "iops-read", "iops-write")
#: every member of ``limits``
LIMITS = (*(kind + end for kind in LIMIT_KINDS for end in ("", "-max", "-max-length")), "iops-size")
_RATE_MAX = 1_000_000_000_000_000
_LENGTH_MAX = 0xFFFF_FFFF


class ThrottleGroup(ObjectOptions):
    """``-object throttle-group``: limits that several disks share.

    Each limit has two spellings: a member of ``limits``, and QEMU's older ``x-…``, given at the start only.
    """

    qom_type = "throttle-group"

    def limit(self, name: str) -> int:
        """The value of one limit. ``limits.…`` wins over ``x-…``."""
        default = 1 if name.endswith("-length") else 0
        for prefix in ("limits.", "x-"):
            value = self.values.get(_attribute(prefix + name))
            if value is not None:
                return int(value)
        return default

    def limits(self) -> dict[str, int]:
        """All limits by name."""
        return {name: self.limit(name) for name in LIMITS}

    def check_values(self) -> None:
        for name in LIMITS:
            if self.values.get(_attribute(f"x-{name}"), 0) < 0:
                raise UsageError("Property values cannot be negative", f"x-{name} takes a number from 0")
        check_limits(self.limits())


def check_limits(limits: dict[str, int]) -> None:
    """Raises UsageError, in QEMU's sentences, for limits that contradict each other."""
    for name, value in limits.items():
        if name.endswith("-length") and not 0 <= value <= _LENGTH_MAX:
            raise UsageError(f"{name} value must be in the range [0, {_LENGTH_MAX}]")
    for unit in ("bps", "iops"):
        for end in ("", "-max"):
            if limits[f"{unit}-total{end}"] and (limits[f"{unit}-read{end}"] or limits[f"{unit}-write{end}"]):
                raise UsageError("bps/iops/max total values and read/write values cannot be used at the same time")
    if limits["iops-size"] and not any(limits[kind] for kind in LIMIT_KINDS if kind.startswith("iops")):
        raise UsageError("iops size requires an iops value to be set")
    for kind in LIMIT_KINDS:
        _check_limit(kind, limits[kind], limits[f"{kind}-max"], limits[f"{kind}-max-length"])


def _check_limit(kind: str, rate: int, burst: int, seconds: int) -> None:
    hint = f"look at {kind}"
    if not (0 <= rate <= _RATE_MAX and 0 <= burst <= _RATE_MAX):
        raise UsageError(f"bps/iops/max values must be within [0, {_RATE_MAX}]", hint)
    if not seconds:
        raise UsageError("the burst length cannot be 0", hint)
    if seconds > 1 and not burst:
        raise UsageError("burst length set without burst rate", hint)
    if burst and not rate:
        raise UsageError("bps_max/iops_max require corresponding bps/iops values", hint)
    if burst and burst < rate:
        raise UsageError("bps_max/iops_max cannot be lower than bps/iops", hint)
    if seconds > 1 and burst > _RATE_MAX // seconds:
        raise UsageError("burst length too high for this burst rate", hint)


def _attribute(wire_name: str) -> str:
    return wire_name.replace("-", "_").replace(".", "_")


def _declare_limits() -> None:
    for name in LIMITS:
        what = "burst length in seconds" if name.endswith("-length") else "limit; 0: none"
        for wire in (f"limits.{name}", f"x-{name}"):
            ThrottleGroup.declare(_attribute(wire), prop(INT64, None, f"{name}: {what}", wire=wire, unset=0))


_declare_limits()


# --- what there is ----------------------------------------------------------------------------------------------------


class LaterObject(ObjectOptions):
    """An object type of QEMU that this version does not have."""

    def __init__(self, qom_type: str, items: Items) -> None:
        super().__init__()
        self.kind = qom_type
        self.items = items


OBJECTS: dict[str, type[ObjectOptions]] = {
    cls.qom_type: cls
    for cls in (
        IoThread,
        MemoryBackendFile,
        MemoryBackendMemfd,
        MemoryBackendRam,
        RngBuiltin,
        RngRandom,
        Secret,
        ThrottleGroup,
    )
}
OBJECTS_LATER = (
    "authz-list", "authz-list-file", "authz-pam", "authz-simple", "can-bus", "can-host-socketcan", "colo-compare",
    "cryptodev-backend", "cryptodev-backend-builtin", "cryptodev-vhost-user", "dbus-vmstate", "filter-buffer",
    "filter-dump", "filter-mirror", "filter-redirector", "filter-replay", "filter-rewriter", "input-barrier",
    "input-linux", "main-loop", "memory-backend-epc", "pr-manager-helper", "qtest", "rng-egd", "secret_keyring",
    "sev-guest", "thread-context", "tls-cipher-suites", "tls-creds-anon", "tls-creds-psk", "tls-creds-x509",
    "x-remote-object", "x-vfio-user-server",
)  # fmt: skip
