# SPDX-License-Identifier: Apache-2.0
"""secret: a password or key, given as it is, in base64, in a file, or encrypted with another secret."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

from vmmd.core.host_files import open_ready
from vmmd.core.tree import Property
from vmmd.errors import BackendError, UsageError
from vmmd.machine.objects.base import HostObject
from vmmd.options.fields import shown
from vmmd.options.objects import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SECRET_BYTES_MAX = 1 << 20
_KEY_BYTES = 32  # AES-256
_BLOCK_BYTES = 16


class SecretObject(HostObject[Secret]):
    """``value`` are the bytes, between ``open`` and ``close``. Error sentences never show them."""

    def __init__(self, options: Secret, key: Callable[[str], bytes]) -> None:
        """``key`` gives the bytes of another secret by id, or raises UsageError."""
        super().__init__(options)
        self._key = key
        self.value = b""

    def open(self) -> None:
        options = self.options
        raw = _bytes(options.data or "") if options.file is None else _read(options.file, self.may_wait)
        if options.keyid is not None:
            raw = decrypt(raw, self._key(options.keyid), options)
        elif options.format == "base64":
            raw = _base64(raw)
        self.value = raw

    def close(self) -> None:
        self.value = b""

    def extra_properties(self) -> Iterable[Property]:
        yield Property("loaded", "bool", lambda: True)


def decrypt(raw: bytes, key: bytes, options: Secret) -> bytes:
    """The bytes behind AES-256-CBC with PKCS#7 padding. Raises UsageError."""
    if options.iv is None:
        raise UsageError("IV is required to decrypt secret", "iv=BASE64 is what it was encrypted with")
    iv = _base64(_bytes(options.iv))
    # QEMU-COMPAT: the sentences
    if len(key) != _KEY_BYTES:
        raise UsageError("Key should be 32 bytes in length", f"secret '{shown(options.keyid)}' has {len(key)}")
    if len(iv) != _BLOCK_BYTES:
        raise UsageError(f"IV should be 16 bytes in length not {len(iv)}")
    if options.format == "base64":
        raw = _base64(raw)
    if not raw or len(raw) % _BLOCK_BYTES:
        raise UsageError(f"Length {len(raw)} must be a multiple of block size {_BLOCK_BYTES}")
    plain = _aes_cbc(raw, key, iv)
    padding = plain[-1]
    if not 1 <= padding <= _BLOCK_BYTES or plain[-padding:] != bytes([padding]) * padding:
        raise UsageError(f"Incorrect number of padding bytes ({padding}) found on decrypted data")
    return plain[:-padding]


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _aes_cbc(raw: bytes, key: bytes, iv: bytes) -> bytes:
    try:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    except ImportError:
        raise UsageError(
            "an encrypted secret (keyid=) is not available: Python has no module 'cryptography'",
            "pip install 'vmmd[secrets]'",
        ) from None
    decryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).decryptor()
    plain: bytes = decryptor.update(raw) + decryptor.finalize()
    return plain


def _base64(raw: bytes) -> bytes:
    # QEMU-COMPAT: line ends are skipped, and the padding may be missing
    packed = raw.replace(b"\n", b"").replace(b"\r", b"")
    try:
        return base64.b64decode(packed + b"=" * (-len(packed) % 4), validate=True)
    except binascii.Error:
        raise UsageError("Base64 data contains invalid characters", "format=raw takes it as it is") from None


def _read(path: str, may_wait: bool) -> bytes:
    try:
        with open(path, "rb", opener=None if may_wait else open_ready) as file:
            content = file.read(SECRET_BYTES_MAX + 1)
    except OSError as error:
        raise BackendError.from_os(f"Unable to read {shown(path)}", error) from error
    if len(content) > SECRET_BYTES_MAX:
        raise UsageError(f"{shown(path)} is larger than {SECRET_BYTES_MAX} bytes")
    return content
