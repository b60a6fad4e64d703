# SPDX-License-Identifier: Apache-2.0
"""Typed models of backends: character devices, disks, sound, display. Key names are QEMU's. ``netdevs`` has the rest.

Every backend class is listed in a table by the word that selects it (``CHARDEVS["socket"]``). A word that QEMU knows
and this version does not have stands in ``…_LATER`` and becomes a ``Later…`` object with its raw items: it parses, and
``availability.check`` refuses it by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from vmmd.core.fdsets import PREFIX
from vmmd.core.props import BOOL, ON_OFF_AUTO, PATH, SIZE, STR, U16, U32, U64, PropType, enum_type, int_type, prop
from vmmd.errors import UsageError
from vmmd.options.addresses import NET_NAME, check_inet, check_port_range, check_unix_path
from vmmd.options.fields import NOTHING, NUMBER, ONLY_OFF, OptionSet, shown

if TYPE_CHECKING:
    from vmmd.options.fields import Items


# --- character devices ------------------------------------------------------------------------------------------------


#: files that are moved out of the way, at most
KEPT_FILES = int_type("int", 0, 100)
#: a file that is smaller would be moved at each line
BOUNDED_BYTES_MIN = 4096
#: output that nobody has got yet, at most
REPLAY_BYTES_MAX = 64 << 20
REPLAY_DOC = "vmmd's own: of output without a peer the last so many bytes are kept for the next one; 0: none"
STALE_INPUT = enum_type("str", "keep", "drop")
STALE_DOC = "vmmd's own: drop: when the guest opens its end, what the host has sent before is thrown away"


def _check_bounded(where: str, file: tuple[str, str | None], limit: tuple[str, int], keeps: bool) -> None:
    """What is said of a file with a limit fits together. Raises UsageError."""
    (file_key, path), (limit_key, count) = file, limit
    if limit_key != "max" and path is None and (count or keeps):
        raise UsageError(f"{where}: '{limit_key if count else 'logkeep'}' is of a {file_key}, and there is none")
    if keeps and not count:
        raise UsageError(f"{where}: files are kept only where '{limit_key}' gives their size")
    if not count:
        return
    if count < BOUNDED_BYTES_MIN:
        raise UsageError(f"{where}: '{limit_key}' takes {BOUNDED_BYTES_MIN} or more", f"it is {count}")
    if path is not None and path.startswith(PREFIX):
        raise UsageError(f"{where}: '{limit_key}' needs a file that has a name", f"{path} cannot be moved")


def _check_replay(where: str, count: int) -> None:
    if count > REPLAY_BYTES_MAX:
        raise UsageError(f"{where}: 'replay' takes up to {REPLAY_BYTES_MAX}", f"it is {count}")


#: keys of character devices that QEMU does not know: on the command line only, and not told to who asks for QEMU's
OWN_CHARDEV_KEYS = ("logmax", "logkeep", "max", "keep", "replay", "stale-input")


class ChardevOptions(OptionSet):
    """``-chardev BACKEND,id=…``: what every backend takes. ``backend`` is the word that selected the class."""

    backend: ClassVar[str] = ""
    id = prop(STR, "", "name of the character device", required=True)
    logfile = prop(PATH, None, "also write everything that comes out of the guest to this file")
    logappend = prop(BOOL, False, "append to the logfile")
    logmax = prop(SIZE, 0, "vmmd's own: the logfile grows to so many bytes, then a new one is begun; 0: without limit")
    logkeep = prop(KEPT_FILES, 1, "vmmd's own: full logfiles that are kept, as LOGFILE.1 (the latest), LOGFILE.2 …")
    mux = prop(BOOL, False, "let several devices share it")

    later: ClassVar = {"mux": ONLY_OFF}

    #: the option that it was made from, as errors name it
    option = "-chardev"

    def check(self, where: str) -> None:
        super().check(where)
        _check_bounded(where, ("logfile", self.logfile), ("logmax", self.logmax), "logkeep" in self.given)


class ChardevFile(ChardevOptions):
    backend = "file"
    path = prop(PATH, "", "file that output is written to; /dev/fdset/N takes a passed descriptor", required=True)
    input_path = prop(PATH, None, "file that input is read from")
    append = prop(BOOL, False, "append instead of truncating")
    max = prop(SIZE, 0, "vmmd's own: the file grows to so many bytes, then a new one is begun; 0: without limit")
    keep = prop(KEPT_FILES, 1, "vmmd's own: full files that are kept, as PATH.1 (the latest), PATH.2 …")

    later: ClassVar = {**ChardevOptions.later, "input-path": NOTHING}

    def check(self, where: str) -> None:
        super().check(where)
        _check_bounded(where, ("path", self.path), ("max", self.max), "keep" in self.given)


class ChardevPty(ChardevOptions):
    backend = "pty"
    path = prop(PATH, None, "symbolic link to the terminal")
    replay = prop(SIZE, 0, REPLAY_DOC)
    stale_input = prop(STALE_INPUT, "keep", STALE_DOC)

    later: ClassVar = {**ChardevOptions.later, "path": NOTHING}

    def check(self, where: str) -> None:
        super().check(where)
        _check_replay(where, self.replay)


class ChardevSocket(ChardevOptions):
    """UNIX (``path``), TCP (``host``/``port``) or an inherited descriptor (``fd``)."""

    backend = "socket"
    path = prop(PATH, None, "UNIX socket")
    abstract = prop(BOOL, False, "the path is in the abstract name space")
    tight = prop(BOOL, True, "an abstract name without padding")
    host = prop(NET_NAME, None, "TCP address; empty: any")
    port = prop(NET_NAME, None, "TCP port or service name")
    to = prop(U16, None, "listen on the first free port from port to this one")
    ipv4 = prop(BOOL, None, "use IPv4")
    ipv6 = prop(BOOL, None, "use IPv6")
    nodelay = prop(BOOL, False, "no Nagle algorithm")
    fd = prop(STR, None, "an inherited descriptor, listening with server=on, else connected")
    server = prop(BOOL, False, "listen instead of connecting")
    wait = prop(BOOL, None, "server: hold the start until a client is there (default on)")
    telnet = prop(BOOL, False, "speak telnet")
    tn3270 = prop(BOOL, False, "speak tn3270")
    websocket = prop(BOOL, False, "speak WebSocket")
    reconnect = prop(int_type("int", 0, 86400), 0, "client: seconds between attempts, 0 for no second one")
    tls_creds = prop(STR, None, "TLS credentials object")
    tls_authz = prop(STR, None, "TLS authorization object")
    replay = prop(SIZE, 0, REPLAY_DOC)
    stale_input = prop(STALE_INPUT, "keep", STALE_DOC)

    later: ClassVar = {
        **ChardevOptions.later,
        "telnet": ONLY_OFF,
        "tn3270": ONLY_OFF,
        "websocket": ONLY_OFF,
        "tls-creds": NOTHING,
        "tls-authz": NOTHING,
    }

    numeric: ClassVar = False  # the host may be a name

    @property
    def waits(self) -> bool:
        """A server that holds the start of vmmd until a client has connected."""
        return self.server and self.wait is not False

    def take(self, items: Items, where: str, *, is_json: bool = False) -> None:
        # `nodelay` is a flag whose name starts with "no": as a bare flag it arrives here as delay=off
        super().take([("nodelay", _inverted(v)) if k == "delay" else (k, v) for k, v in items], where, is_json=is_json)

    def check(self, where: str) -> None:
        super().check(where)
        _check_replay(where, self.replay)
        ways: list[str] = [key for key in ("path", "fd", "port") if key in self.given]
        if "host" in self.given and "port" not in ways:
            ways.append("host")
        if len(ways) > 1:
            raise UsageError(f"{where}: '{ways[0]}' and '{ways[1]}' exclude each other", "one socket has one address")
        if not ways:
            raise UsageError(
                f"{where}: one of 'path', 'fd' or 'port' is missing", "path=FILE, host=ADDRESS,port=PORT or fd=N"
            )
        if "host" in ways:
            raise UsageError(f"{where}: Parameter 'port' is missing", "it takes a number or the name of a service")
        if "port" in ways and "host" not in self.given:
            raise UsageError(f"{where}: Parameter 'host' is missing", "it takes a host name or address")
        if self.wait is not None and not self.server:
            raise UsageError(f"{where}: 'wait' is for server=on only")
        if self.reconnect and self.server:
            raise UsageError(f"{where}: 'reconnect' is for a client, not with server=on")
        if self.reconnect and self.fd is not None:
            raise UsageError(f"{where}: 'reconnect' needs an address to connect to, 'fd' has none")
        self._check_address(where)

    def _check_address(self, where: str) -> None:
        if self.path is not None:
            check_unix_path(where, self.path)
        check_inet(where, self.port, self.ipv4, self.ipv6)
        check_port_range(where, self.port, self.to, server=self.server)


def _inverted(value: object) -> object:
    return {"on": "off", "off": "on", True: False, False: True}.get(value, value)


class ChardevStdio(ChardevOptions):
    backend = "stdio"
    signal = prop(BOOL, True, "Control-C ends vmmd")


class ChardevNull(ChardevOptions):
    backend = "null"


class ChardevRingbuf(ChardevOptions):
    backend = "ringbuf"
    size = prop(SIZE, 65536, "bytes kept, a power of two")

    def check(self, where: str) -> None:
        super().check(where)
        if self.size <= 0 or self.size & (self.size - 1) or self.size > 1 << 30:
            # QEMU-COMPAT: the phrase
            raise UsageError(f"{where}: size of ringbuf chardev must be power of two", f"up to 1G, it is {self.size}")


class LaterChardev(ChardevOptions):
    """A backend of QEMU that this version does not have."""

    def __init__(self, backend: str, items: Items) -> None:
        super().__init__()
        self.kind = backend
        self.items = items


CHARDEVS: dict[str, type[ChardevOptions]] = {
    cls.backend: cls for cls in (ChardevNull, ChardevFile, ChardevPty, ChardevSocket, ChardevStdio, ChardevRingbuf)
}
CHARDEVS["memory"] = ChardevRingbuf  # QEMU's old name of ringbuf
CHARDEVS_LATER = (
    "braille", "chardev", "dbus", "hub", "msmouse", "mux", "parallel", "parport", "pipe", "qemu-vdagent", "serial",
    "spiceport", "spicevmc", "testdev", "tty", "udp", "vc", "wctablet",
)  # fmt: skip


# --- disks ------------------------------------------------------------------------------------------------------------

ON_ERROR_READ = enum_type("BlockdevOnError", "report", "ignore", "stop", "auto")
ON_ERROR_WRITE = enum_type("BlockdevOnError", "report", "ignore", "stop", "enospc", "auto")
DISCARD = enum_type("BlockdevDiscardOptions", "ignore", "unmap")
DRIVE_DISCARD = enum_type("BlockdevDiscardOptions", "ignore", "off", "unmap", "on")
DETECT_ZEROES = enum_type("BlockdevDetectZeroesOptions", "off", "on", "unmap")
AIO = enum_type("BlockdevAioOptions", "threads", "native", "io_uring")
CACHE = enum_type("str", "none", "writethrough", "writeback", "directsync", "unsafe")


def _no_text_child(text: str) -> Any:
    return text


#: a child node: the name of a node, or (as a dict of items) its own options
BLOCK_CHILD: PropType[Any] = PropType(
    "BlockdevRef",
    "the node-name of a block node, or its options",
    _no_text_child,
    json_kinds=(dict, str),
    from_json=lambda v: v,
)


class DriveOptions(OptionSet):
    """``-drive``. ``file.KEY=…`` keys make the node ``protocol``."""

    id = prop(STR, None, "name of the drive")
    interface = prop(
        enum_type("str", "none", "virtio", "ide", "scsi", "floppy", "pflash", "sd", "mtd", "xen"),
        "ide",
        "what the guest sees: ide, virtio, floppy, or none: a -device takes it",
        wire="if",
    )
    index = prop(NUMBER, None, "number on the interface")
    bus = prop(NUMBER, None, "bus number")
    unit = prop(NUMBER, None, "unit number")
    media = prop(enum_type("str", "disk", "cdrom"), "disk", "kind of medium")
    file = prop(PATH, None, "image file")
    format = prop(STR, None, "image format: raw; without it the format is probed")
    read_only = prop(BOOL, False, "refuse writes")
    snapshot = prop(BOOL, None, "write to a temporary file instead")
    cache = prop(CACHE, None, "writeback, writethrough, none, directsync or unsafe")
    cache_direct = prop(BOOL, None, "bypass the host's page cache", wire="cache.direct")
    cache_no_flush = prop(BOOL, None, "ignore flushes", wire="cache.no-flush")
    cache_writeback = prop(BOOL, None, "guest writes may stay in caches until a flush", wire="cache.writeback")
    aio = prop(AIO, None, "how the host file is accessed")
    discard = prop(DRIVE_DISCARD, None, "ignore, or unmap: pass discards to the host")
    detect_zeroes = prop(DETECT_ZEROES, "off", "turn writes of zeroes into cheaper ones")
    copy_on_read = prop(BOOL, False, "copy from the backing file when read")
    werror = prop(ON_ERROR_WRITE, None, "what a failed write does (default enospc)")
    rerror = prop(ON_ERROR_READ, None, "what a failed read does (default report)")
    node_name = prop(STR, None, "name of the root block node")
    auto_read_only = prop(BOOL, False, "fall back to read-only")
    force_share = prop(BOOL, False, "share an image locked by others; needs read-only")
    stats_account_invalid = prop(BOOL, True, "count invalid requests")
    stats_account_failed = prop(BOOL, True, "count failed requests")

    aliases: ClassVar = {"readonly": "read-only", "driver": "format"}
    later: ClassVar = {
        "snapshot": ONLY_OFF,
        "copy-on-read": ONLY_OFF,
        "if": ("none", "virtio", "ide", "floppy"),
        "aio": ("threads", "io_uring"),
        "detect-zeroes": ("off",),
        "stats-account-invalid": (True,),
        "stats-account-failed": (True,),
    }

    def __init__(self) -> None:
        super().__init__()
        self.file_options: Items = []
        self.throttling: Items = []
        self.protocol: BlockdevOptions | None = None  # the node that file.KEY=… keys describe
        self.made_from = ""  # another option (-hda FILE)

    @property
    def where(self) -> str:
        """The option, for errors."""
        return self.made_from or (f"-drive id={shown(self.id)}" if self.id else f"-drive if={self.interface}")

    def check(self, where: str) -> None:
        super().check(where)
        if self.media == "cdrom":  # QEMU-COMPAT: whatever read-only= says
            self.values["read_only"] = True

    def take(self, items: Items, where: str, *, is_json: bool = False) -> None:
        own: Items = []
        for key, value in items:
            if key.startswith("file."):
                self.file_options.append((key[5:], value))
            elif key.startswith("throttling.") or key in DRIVE_LIMITS:
                self.throttling.append((key, value))
            else:
                own.append((key, value))
        super().take(own, where, is_json=is_json)


DRIVE_LIMITS = frozenset(
    f"{kind}{direction}{suffix}"
    for kind in ("bps", "iops")
    for direction in ("", "_rd", "_wr")
    for suffix in ("", "_max", "_max_length")
) | {"iops_size", "group"}


class BlockdevOptions(OptionSet):
    """``-blockdev``: what every block driver takes. ``cache.direct`` is ``{"cache": {"direct": …}}`` in JSON."""

    driver: ClassVar[str] = ""
    node_name = prop(STR, None, "name of the node")
    read_only = prop(BOOL, None, "refuse writes")
    auto_read_only = prop(BOOL, False, "fall back to read-only")
    discard = prop(DISCARD, "ignore", "ignore, or unmap: pass discards on")
    detect_zeroes = prop(DETECT_ZEROES, "off", "turn writes of zeroes into cheaper ones")
    force_share = prop(BOOL, False, "share an image locked by others; needs read-only")
    cache_direct = prop(BOOL, False, "bypass the host's page cache", wire="cache.direct")
    cache_no_flush = prop(BOOL, False, "ignore flushes", wire="cache.no-flush")

    later: ClassVar = {"detect-zeroes": ("off",)}

    def children(self) -> list[BlockdevOptions]:
        """Child nodes that are defined inside this one."""
        return [value for value in self.values.values() if isinstance(value, BlockdevOptions)]


class BlockdevFile(BlockdevOptions):
    driver = "file"
    filename = prop(PATH, "", "path of the image", required=True)
    aio = prop(AIO, "threads", "how the host file is accessed")
    locking = prop(ON_OFF_AUTO, "auto", "lock the image against other users")
    pr_manager = prop(STR, None, "persistent reservation helper")
    aio_max_batch = prop(U32, 0, "requests in one submission")
    drop_cache = prop(BOOL, True, "drop the page cache after migration")
    x_check_cache_dropped = prop(BOOL, False, "check that")

    later: ClassVar = {
        **BlockdevOptions.later,
        "aio": ("threads", "io_uring"),
        "pr-manager": NOTHING,
        "aio-max-batch": (0,),
        "drop-cache": (True, "on"),  # what it is for is migration
        "x-check-cache-dropped": ONLY_OFF,
    }


class BlockdevHostDevice(BlockdevFile):
    driver = "host_device"


class BlockdevNullCo(BlockdevOptions):
    driver = "null-co"
    size = prop(SIZE, 1 << 30, "size of the disk")
    latency_ns = prop(U64, 0, "nanoseconds that each request takes")
    read_zeroes = prop(BOOL, False, "reads give zeroes, otherwise the buffer is not touched")


class BlockdevNullAio(BlockdevNullCo):
    driver = "null-aio"


class BlockdevRaw(BlockdevOptions):
    driver = "raw"
    file = prop(BLOCK_CHILD, None, "node below", required=True)
    offset = prop(SIZE, 0, "first byte of the disk in the node below")
    size = prop(SIZE, None, "size of the disk")


class BlockdevBlkdebug(BlockdevOptions):
    driver = "blkdebug"
    image = prop(BLOCK_CHILD, None, "node below", required=True)
    config = prop(PATH, "", "file with the rules by which requests fail")


class LaterBlockdev(BlockdevOptions):
    """A block driver of QEMU that this version does not have."""

    def __init__(self, driver: str, items: Items) -> None:
        super().__init__()
        self.kind = driver
        self.items = items


BLOCKDEVS: dict[str, type[BlockdevOptions]] = {
    cls.driver: cls
    for cls in (BlockdevFile, BlockdevHostDevice, BlockdevNullCo, BlockdevNullAio, BlockdevRaw, BlockdevBlkdebug)
}
BLOCKDEVS_LATER = (
    "blklogwrites", "blkreplay", "blkverify", "bochs", "cloop", "compress", "copy-before-write",
    "copy-on-read", "dmg", "ftp", "ftps", "gluster", "host_cdrom", "http", "https", "io_uring", "iscsi", "luks",
    "nbd", "nfs", "nvme", "nvme-io_uring", "parallels", "preallocate", "qcow", "qcow2", "qed", "quorum", "rbd",
    "replication", "snapshot-access", "ssh", "throttle", "vdi", "vhdx", "virtio-blk-vfio-pci",
    "virtio-blk-vhost-user", "virtio-blk-vhost-vdpa", "vmdk", "vpc", "vvfat",
)  # fmt: skip

# --- sound, display: parsed so that the whole line is checked; refused by availability ----------------------


class AudiodevOptions(OptionSet):
    """``-audiodev``; only driver ``none``, which plays and records nothing, exists."""

    id = prop(STR, "", "name", required=True)
    driver = prop(STR, "none", "none", required=True)
    timer_period = prop(U32, 10000, "microseconds between two looks")


AUDIODEVS_LATER = ("alsa", "coreaudio", "dbus", "dsound", "jack", "oss", "pa", "sdl", "sndio", "spice", "wav")


class VncOptions(OptionSet):
    """``-vnc``."""

    display = prop(STR, "", "address:number, unix:path or none", required=True, wire="vnc")
    id = prop(STR, "default", "name")
    password = prop(BOOL, False, "ask for a password")
    password_secret = prop(STR, None, "secret that holds it")
    reverse = prop(BOOL, False, "connect to a listening viewer")
    websocket = prop(STR, None, "also listen for WebSocket")
    to = prop(NUMBER, None, "highest display number to try")
    share = prop(enum_type("str", "allow-exclusive", "force-shared", "ignore"), "allow-exclusive", "who may share")
    lossy = prop(BOOL, False, "lossy encodings")
    non_adaptive = prop(BOOL, False, "no adaptive encodings")
    sasl = prop(BOOL, False, "SASL authentication")
    sasl_authz = prop(STR, None, "object")
    acl = prop(BOOL, False, "access lists")
    tls_creds = prop(STR, None, "object")
    tls_authz = prop(STR, None, "object")
    audiodev = prop(STR, None, "sound backend")
    head = prop(U32, None, "head of the display device")
    key_delay_ms = prop(U32, 10, "milliseconds a key stays down")
    connections = prop(U32, 32, "clients at most")
    lock_key_sync = prop(BOOL, True, "keep lock keys in step")
    power_control = prop(BOOL, False, "clients may shut down the guest")
    ipv4 = prop(BOOL, None, "use IPv4")
    ipv6 = prop(BOOL, None, "use IPv6")
    display_device = prop(STR, None, "id of the display device", wire="display")
