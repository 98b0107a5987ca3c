"""The devices that this desktop has paired with: address, pinned certificate and token, in one file of its owner's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from device_profiles.errors import GeoshiftError, describe
from runtime import private_files

MAX_BYTES: Final = 1 << 20


class UnknownDevice(GeoshiftError):
    """This desktop has not paired with the device. Run ``geoshift login`` first."""


class KnownDevice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A device that this desktop has paired with."""

    name: Annotated[str, Meta(min_length=1, max_length=64)]
    """What its owner calls it here."""
    url: Annotated[str, Meta(max_length=512)]
    device: str
    """Its own id."""
    certificate_sha256: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?(?![\s\S])")]
    """Empty for one on loopback or a Unix socket, which shows none."""
    token: str


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: Literal["geoshift.devices/1"]
    devices: Annotated[tuple[KnownDevice, ...], Meta(max_length=1024)]


def default_path() -> Path:
    """Where the file is unless somebody says otherwise."""
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "geoshift" / "devices.json"


class KnownDevices:
    """The file of devices.

    Args:
        path: The file; it need not be there yet.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or default_path()

    def all(self) -> tuple[KnownDevice, ...]:
        """All of them, by name."""
        raw = private_files.read(self._path, MAX_BYTES)
        if raw is None:
            return ()
        try:
            return msgspec.json.decode(raw, type=_File).devices
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise private_files.PrivateFileError(
                f"{self._path}: {error}; remove the file and log in to every device again"
            ) from error

    def find(self, name: str) -> KnownDevice:
        """A device by its name here, its id or its address.

        Raises:
            UnknownDevice: None of them is called so.
        """
        known = self.all()
        for key in ("name", "device", "url"):
            for one in known:
                if getattr(one, key) == name:
                    return one
        names = ", ".join(one.name for one in known) or "none yet"
        raise UnknownDevice(f"device: found {describe(name)}, expected one of {names}; run `geoshift login {name}`")

    def keep(self, device: KnownDevice) -> None:
        """Add a device, in place of one of the same name."""
        private_files.folder(self._path.parent)
        with private_files.locked(self._path):
            others = [one for one in self.all() if one.name != device.name]
            self._save([*others, device])

    def forget(self, name: str) -> None:
        """Drop a device.

        Raises:
            UnknownDevice: There is none of this name.
        """
        found = self.find(name)
        with private_files.locked(self._path):
            self._save([one for one in self.all() if one.name != found.name])

    def _save(self, devices: list[KnownDevice]) -> None:
        devices.sort(key=lambda one: one.name)
        private_files.write(self._path, msgspec.json.encode(_File("geoshift.devices/1", tuple(devices))))
