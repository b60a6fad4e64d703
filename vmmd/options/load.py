# SPDX-License-Identifier: Apache-2.0
"""Contents that options only name: secrets. Read when the whole line is known to be good, before a machine is built."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.errors import BackendError, UsageError
from vmmd.options.backends import Secret
from vmmd.options.fields import shown

if TYPE_CHECKING:
    from vmmd.options.models import Config

SECRET_BYTES_MAX = 1 << 20


def secrets(config: Config) -> dict[str, bytes]:
    """The bytes of every ``-object secret`` by id. Raises BackendError (file) or UsageError (content)."""
    return {entry.id: read_secret(entry) for entry in config.objects if isinstance(entry, Secret)}


def read_secret(secret: Secret) -> bytes:
    """The bytes of one secret, decoded. Error sentences never show them."""
    where = f"-object secret,id={secret.id}"
    if secret.file is not None:
        raw = _file(secret.file, where)
    else:
        raw = (secret.data or "").encode("utf-8", "surrogateescape")
    if secret.format == "raw":
        return raw
    import base64
    import binascii

    try:
        return base64.b64decode(b"".join(raw.split()), validate=True)
    except binascii.Error:
        raise UsageError(f"{where}: the content is not valid base64", "format=raw takes it as it is") from None


def _file(path: str, where: str) -> bytes:
    try:
        with open(path, "rb") as file:
            content = file.read(SECRET_BYTES_MAX + 1)
    except OSError as error:
        raise BackendError.from_os(f"{where},file={shown(path)}: Unable to read {shown(path)}", error) from error
    if len(content) > SECRET_BYTES_MAX:
        raise UsageError(f"{where},file={shown(path)}: the file is larger than {SECRET_BYTES_MAX} bytes")
    return content
