# SPDX-License-Identifier: Apache-2.0
"""The disk images that the guests boot from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.framework import guests, images

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_images_have_the_same_bytes_on_every_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    builders = (guests.grub_legacy_disk, guests.fat_disk, guests.syslinux_disk, guests.random_disk)
    first = [build().path.read_bytes() for build in builders]
    monkeypatch.setenv("VMMD_GUESTS", str(tmp_path))
    assert [build().path.read_bytes() for build in builders] == first


def test_files_survive_the_way_into_an_image_and_out(tmp_path: Path) -> None:
    files = {"A.BIN": images.random_bytes(1, 70_001), "deep/er/b.txt": b"text\n"}
    image = tmp_path / "disk.img"
    images.partitioned_fat(image, guests.IMAGE_MIB)
    images.put_files(image, files, tmp_path)
    assert {name: images.get_file(image, name, tmp_path) for name in files} == files
