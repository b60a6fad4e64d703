# SPDX-License-Identifier: Apache-2.0
"""Typed properties: one declaration from which parsing, validation, help, and introspection follow.

    class IsaSerial(IsaDevice):
        class Props(IsaDevice.Props):
            iobase = prop(U32, AUTO, "first I/O port")
            chardev = prop(CHARDEV, None, "backend id", required=True)

An instance of ``Props`` holds one device's values. Names on the wire use QEMU's spelling: ``_`` in Python is ``-``
on the wire unless ``wire=`` says otherwise (``x = prop(..., wire="config_wce")``). Values come as text
(``-device a,b=c``) or JSON (``-device '{…}'``, device_add); errors name the property, the value and what is accepted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar, cast, overload

from vmmd.core.host_files import PATH_ACCEPTS, checked_path
from vmmd.errors import UsageError
from vmmd.units import parse_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

_BOOL_WORDS = {"on": True, "yes": True, "true": True, "y": True, "off": False, "no": False, "false": False, "n": False}


class PropType(Generic[T]):
    """A kind of value: how it is parsed, shown and named in introspection."""

    def __init__(  # noqa: PLR0913  # one call per type, below; all but three by name
        self,
        qapi_name: str,
        accepts: str,
        parse: Callable[[str], T],
        *,
        json_kinds: tuple[type, ...],
        from_json: Callable[[Any], T] | None = None,
        to_json: Callable[[T], object] | None = None,
        ref_kind: str | None = None,
        values: tuple[str, ...] = (),
    ) -> None:
        self.qapi_name = qapi_name  # type name in device-list-properties
        self.accepts = accepts  # words for error messages: "a number from 0 to 255"
        self.parse = parse  # text -> value, ValueError when it does not fit
        self.json_kinds = json_kinds  # JSON types taken besides str
        self._from_json = from_json
        self._to_json = to_json
        self.ref_kind = ref_kind  # "chardev", "drive", "netdev", "memdev": names a backend
        self.values = values  # of an enumeration
        self.c_type: str | None = None  # of a number: QEMU's word for what does not fit into it
        #: what introspection shows for «not given»
        self.unset: object = "" if qapi_name == "str" or qapi_name.startswith("link<") else None

    def from_json(self, value: object) -> T:
        """The value of a JSON member; ValueError when it does not fit. Strings are parsed like text, as QEMU does."""
        if isinstance(value, str):
            return self.parse(value)
        if type(value) not in self.json_kinds:
            raise ValueError(self.accepts)
        if self._from_json is not None:
            return self._from_json(value)
        return self.parse(str(value))

    def to_json(self, value: T) -> object:
        """The value as JSON (qom-get, default-value)."""
        if self._to_json is not None:
            return self._to_json(value)
        return value


def _parse_bool(text: str) -> bool:
    if text not in _BOOL_WORDS:
        raise ValueError("'on' or 'off'")
    return _BOOL_WORDS[text]


def parse_int(text: str) -> int:
    """A C-style number: decimal, 0x hexadecimal or leading-0 octal. ValueError otherwise."""
    body = text.strip()
    sign = -1 if body.startswith("-") else 1
    body = body.removeprefix("-")
    if not body or not body[0].isdigit() or not body.isascii() or "_" in body:
        raise ValueError("a number")
    if body[:2].lower() == "0x":
        return sign * int(body, 16)
    return sign * int(body, 8 if len(body) > 1 and body[0] == "0" and body.isdigit() else 10)


#: larger bounds are shown in hexadecimal: they are all ones
_DECIMAL_MAX = 0x7FFF_FFFF


def _is_number(value: object) -> bool:
    try:
        parse_int(str(value))
    except ValueError:
        return False
    return True


def int_type(name: str, low: int, high: int) -> PropType[int]:
    """An integer type with inclusive bounds."""
    accepts = f"a number from {low} to {high if high <= _DECIMAL_MAX else hex(high)}"

    def check(value: int) -> int:
        if not low <= value <= high:
            raise ValueError(accepts)
        return value

    def parse(text: str) -> int:
        try:
            return check(parse_int(text))
        except ValueError:
            raise ValueError(accepts) from None

    made = PropType(name, accepts, parse, json_kinds=(int,), from_json=check)
    made.c_type = f"{name}_t"
    return made


def enum_type(name: str, *values: str) -> PropType[str]:
    """One of a few words."""
    accepts = "one of " + ", ".join(values)

    def parse(text: str) -> str:
        if text not in values:
            raise ValueError(accepts)
        return text

    return PropType(name, accepts, parse, json_kinds=(), values=values)


def _any_text(text: str) -> str:
    return text


def _parse_size_prop(text: str) -> int:
    if text[:2].lower() != "0x" and text[:1] == "0" and text.isdigit():
        return parse_int(text)
    return parse_size(text)


def _check_size(value: int) -> int:
    if not 0 <= value <= 0xFFFF_FFFF_FFFF_FFFF:
        raise ValueError("a size in bytes below 16 EiB")
    return value


def ref_type(kind: str, qapi_name: str = "str") -> PropType[str]:
    """The id of a backend; resolved through ``DeviceContext`` when the device is realized."""
    return PropType(qapi_name, f"the id of a {kind}", _any_text, json_kinds=(), ref_kind=kind)


def _parse_mac(text: str) -> bytes:
    parts = text.replace("-", ":").split(":")
    if len(parts) != 6 or not all(len(p) == 2 and all(c in "0123456789abcdefABCDEF" for c in p) for p in parts):
        raise ValueError("a MAC address like 52:54:00:12:34:56")
    return bytes(int(part, 16) for part in parts)


class PciAddress(NamedTuple):
    """Slot and function of ``addr=0x1.0x2``."""

    slot: int
    function: int

    def __str__(self) -> str:
        return f"{self.slot:02x}.{self.function:x}"


_PCI_ADDR_ACCEPTS = "a PCI slot 0x0-0x1f with an optional function 0-7, like 0x5 or 0x1.0x2"


def _parse_pci_addr(text: str) -> PciAddress:
    slot, dot, function = text.partition(".")
    try:
        address = PciAddress(int(slot, 16), int(function, 16) if dot else 0)
    except ValueError:
        raise ValueError(_PCI_ADDR_ACCEPTS) from None
    if not (0 <= address.slot < 32 and 0 <= address.function < 8):
        raise ValueError(_PCI_ADDR_ACCEPTS)
    return address


def _pci_addr_from_json(value: int) -> PciAddress:
    if not 0 <= value < 256:
        raise ValueError(_PCI_ADDR_ACCEPTS)
    return PciAddress(value >> 3, value & 7)


BOOL: PropType[bool] = PropType("bool", "'on' or 'off'", _parse_bool, json_kinds=(bool,), from_json=bool)
U8 = int_type("uint8", 0, 0xFF)
U16 = int_type("uint16", 0, 0xFFFF)
U32 = int_type("uint32", 0, 0xFFFF_FFFF)
U64 = int_type("uint64", 0, 0xFFFF_FFFF_FFFF_FFFF)
I32 = int_type("int32", -(1 << 31), (1 << 31) - 1)
BOOT_INDEX = int_type("int32", -1, (1 << 31) - 1)
BOOT_INDEX.unset = -1
STR: PropType[str] = PropType("str", "a string", _any_text, json_kinds=())
PATH: PropType[str] = PropType("str", PATH_ACCEPTS, checked_path, json_kinds=())
SIZE: PropType[int] = PropType(
    "size", "a size such as 512, 64k, 1M or 2G", _parse_size_prop, json_kinds=(int,), from_json=_check_size
)
ON_OFF_AUTO = enum_type("OnOffAuto", "on", "off", "auto")
MACADDR: PropType[bytes] = PropType(
    "str", "a MAC address like 52:54:00:12:34:56", _parse_mac, json_kinds=(), to_json=lambda mac: mac.hex(":")
)
PCI_ADDR: PropType[PciAddress] = PropType(
    "int32",
    _PCI_ADDR_ACCEPTS,
    _parse_pci_addr,
    json_kinds=(int,),
    from_json=_pci_addr_from_json,
    to_json=lambda address: address.slot << 3 | address.function,
)
PCI_ADDR.unset = -1
CHARDEV = ref_type("chardev")
DRIVE = ref_type("drive")
NETDEV = ref_type("netdev")
MEMDEV = ref_type("memory-backend")
IOTHREAD = ref_type("iothread", "link<iothread>")

D = TypeVar("D")


class Prop(Generic[D]):
    """One declared property. As an attribute of a ``Props`` instance it is its value."""

    __slots__ = ("default", "doc", "kind", "live", "name", "required", "unset", "wire_name")

    def __init__(self, kind: PropType[Any], default: D, doc: str, wire: str | None, required: bool) -> None:
        self.kind = kind
        self.default = default
        self.doc = doc
        self.required = required
        self.live = False
        self.unset: object = kind.unset
        self.name = ""
        self.wire_name = wire or ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name
        self.wire_name = self.wire_name or name.replace("_", "-")

    @overload
    def __get__(self, instance: None, owner: type) -> Prop[D]: ...
    @overload
    def __get__(self, instance: PropSet, owner: type) -> D: ...
    def __get__(self, instance: PropSet | None, owner: type) -> Prop[D] | D:
        if instance is None:
            return self
        return instance.values.get(self.name, self.default)  # type: ignore[no-any-return]

    def __set__(self, instance: PropSet, value: D) -> None:
        instance.values[self.name] = value

    def shown(self, value: object) -> object:
        """``value`` as introspection shows it; None is a value that was not set."""
        if value is None:
            value = self.default
        return self.unset if value is None else self.kind.to_json(value)

    def checked(self, value: object) -> Any:
        """A JSON value as qom-set takes it: of exactly the right JSON type. Raises UsageError in QAPI's words."""
        kinds = self.kind.json_kinds or (str,)
        fits = type(value) in kinds and not (kinds == (int,) and abs(cast("int", value)) >= 1 << 64)
        if not fits:
            word = {str: "string", int: "integer", bool: "boolean"}.get(kinds[0], "value")
            raise UsageError(f"Invalid parameter type for '{self.wire_name}', expected: {word}")
        try:
            return self.kind.from_json(value)
        except ValueError:
            raise UsageError(
                f"Parameter '{self.wire_name}' does not accept value '{value}'", f"it takes {self.kind.accepts}"
            ) from None

    @property
    def default_value(self) -> object:
        """``default-value`` in introspection; None for none: text without a default, and what may change later on."""
        value = self.shown(None)
        return None if self.live or value == "" else value


@overload
def prop(
    kind: PropType[T],
    default: T,
    doc: str,
    *,
    wire: str | None = None,
    required: bool = False,
    live: bool = False,
    unset: object = None,
) -> Prop[T]: ...
@overload
def prop(
    kind: PropType[T],
    default: None,
    doc: str,
    *,
    wire: str | None = None,
    required: bool = False,
    live: bool = False,
    unset: object = None,
) -> Prop[T | None]: ...
def prop(  # noqa: PLR0913  # the traits of a property, by name
    kind: PropType[Any],
    default: Any,
    doc: str,
    *,
    wire: str | None = None,
    required: bool = False,
    live: bool = False,
    unset: object = None,
) -> Prop[Any]:
    """Declare a property. A ``required`` one must be given; ``None`` means «not given» or «chosen by vmmd», and
    ``unset`` is what introspection shows for it. A ``live`` one may be changed while the object is in use."""
    made = Prop(kind, default, doc, wire, required)
    made.live = live
    made.unset = kind.unset if unset is None else unset
    return made


class PropSet:
    """Base of every ``Props`` class: the values of one object, by declared property."""

    declared: ClassVar[dict[str, Prop[Any]]] = {}  # by wire name, in order of declaration
    #: wire names of a base class that this one does not have; as attributes they keep their defaults
    dropped: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.given: set[str] = set()  # wire names set by the user

    def __init_subclass__(cls) -> None:
        declared = dict(cls.declared)
        for value in vars(cls).values():
            if isinstance(value, Prop):
                declared[value.wire_name] = value
        cls.declared = {name: each for name, each in declared.items() if name not in cls.dropped}

    @classmethod
    def declare(cls, attribute: str, declared: Prop[Any]) -> None:
        """Add a property to a class that is there already: for many of one kind."""
        setattr(cls, attribute, declared)
        declared.__set_name__(cls, attribute)
        cls.declared[declared.wire_name] = declared

    @classmethod
    def own_first(cls) -> Iterator[Prop[Any]]:
        """As ``each``, but what a class declares itself before what its bases do."""
        return (each for base in cls.__mro__ for each in vars(base).values() if each in cls.declared.values())

    @classmethod
    def each(cls) -> Iterator[Prop[Any]]:
        return iter(cls.declared.values())

    def set_text(self, wire_name: str, text: str, owner: str) -> None:
        """Set from ``name=text``. ``owner`` (a driver name) goes into errors. Raises UsageError."""
        declared = self._find(wire_name, owner)
        try:
            self.values[declared.name] = declared.kind.parse(text)
        except ValueError:
            raise self._misfit(declared, text, owner) from None
        self.given.add(wire_name)

    def set_json(self, wire_name: str, value: object, owner: str) -> None:
        """Set from a JSON member. Raises UsageError."""
        declared = self._find(wire_name, owner)
        try:
            self.values[declared.name] = declared.kind.from_json(value)
        except ValueError:
            raise self._misfit(declared, value, owner) from None
        self.given.add(wire_name)

    def check_required(self, owner: str) -> None:
        """Raises UsageError naming the first missing required property."""
        for declared in self.declared.values():
            if declared.required and self.values.get(declared.name) is None:
                raise UsageError(f"{owner}: property '{declared.wire_name}' is missing", declared.kind.accepts)

    def _find(self, wire_name: str, owner: str) -> Prop[Any]:
        found = self.declared.get(wire_name)
        if found is None:
            from vmmd.errors import nearest

            near = nearest(wire_name, list(self.declared))
            hint = f"did you mean '{near}'?" if near else "known are: " + ", ".join(sorted(self.declared))
            # QEMU-COMPAT: clients match on this sentence
            raise UsageError(f"Property '{owner}.{wire_name}' not found", hint)
        return found

    @staticmethod
    def _misfit(declared: Prop[Any], value: object, owner: str) -> UsageError:
        """QEMU-COMPAT: the sentences, by kind of property."""
        kind, name = declared.kind, declared.wire_name
        if kind.values:
            sentence = f"Parameter '{name}' does not accept value '{value}'"
        elif kind is BOOL:
            sentence = f"Parameter '{name}' expects 'on' or 'off'"
        elif kind.c_type is not None:
            sentence = f"Parameter '{name}' expects {kind.c_type if _is_number(value) else 'integer'}"
        else:
            return UsageError(f"Property '{owner}.{name}' doesn't take value '{value}'", f"it takes {kind.accepts}")
        return UsageError(sentence, f"{owner} takes {kind.accepts}, not '{value}'")
