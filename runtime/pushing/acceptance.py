"""Whether a device may take a plan in place of the one at work, told from manifest and signature alone."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from device_profiles import Profile
from runtime.device.network import Network
from runtime.errors import BundleError, NoRoom, PushRefused, StagingError
from runtime.memory.state_directory import StateDirectory
from runtime.plan import bundle as bundles
from runtime.plan import bundle_files
from runtime.plan.bundle import Head
from runtime.plan.bundle_parts import moved_layers
from runtime.plan.costs import check_writes
from runtime.plan.fit import (
    affords_comfort,
    announced_bytes,
    announced_need,
    check_manifest_weights,
    check_profile_modes,
    check_rows,
    comfort_bytes,
    moved_bytes,
)
from runtime.plan.manifest import Manifest
from runtime.plan.trust import Trust

ORIGIN: Final = Path("push")
"""What a bundle is called in errors that lies nowhere yet."""
HEAD_BYTES: Final = 64 << 10
"""Of a file of rows, which counts as rows where only its size is known; one of a thousand layers has less."""


def read_head(manifest: bytes, signature: bytes | None, trust: Trust | None) -> Head:
    """Manifest and signature of a bundle that is to come in; names and sizes of its files are checked too.

    Args:
        manifest: Content of plan.json.
        signature: Content of plan.sig.
        trust: Pinned keys and the committed release.

    Raises:
        PushRefused: Something about them is not as the specification says, or no pinned key vouches for them.
    """
    try:
        head = bundles.head_of(manifest, signature, ORIGIN, trust)
        bundle_files.check_listed(ORIGIN, head.manifest.files)
    except BundleError as error:
        raise PushRefused(str(error)) from error
    return head


def check_successor(found: Manifest, present: Manifest, profile: Profile, policy: str | None, release: int) -> None:
    """Check that callers will not notice another plan, and that the device can run it.

    Args:
        found: Manifest of the plan that is pushed.
        present: That of the plan at work.
        profile: The device.
        policy: Bank policy in place of the profile's.
        release: Highest release that the device has committed.

    Raises:
        PushRefused: The plan is older, is for other callers, or does not fit the device.
    """
    if found.release < release:
        raise PushRefused(
            f"release: found {found.release}, expected at least {release}, which this device has committed; release it "
            "anew with `geoshift bundle sign --release`"
        )
    for name, new, old in (
        ("model.id", found.model.id, present.model.id),
        ("model.input_shape", list(found.model.input_shape), list(present.model.input_shape)),
        ("model.outputs", found.model.outputs, present.model.outputs),
        ("labels", list(found.labels), list(present.labels)),
        ("preprocessing", found.preprocessing, present.preprocessing),
    ):
        if new != old:
            raise PushRefused(
                f"{name}: found {_short(new)}, expected {_short(old)} as in the plan at work, which callers rely on; "
                "serve another interface with `geoshift serve --migrate` on the device"
            )
    try:
        check_profile_modes(found, profile, "the pushed plan")
        check_manifest_weights(found, profile, "the pushed plan")
        check_rows(moved_layers(found), profile, f"the pushed plan on {profile.name}")
        check_writes(moved_layers(found), profile, f"the pushed plan on {profile.name}")
    except BundleError as error:
        raise PushRefused(str(error)) from error
    need, limit = announced_need(found, profile, policy), profile.memory.weights_bytes
    # A plan that is this close is judged exactly once it is loaded.
    if need > limit + HEAD_BYTES:
        raise PushRefused(
            f"memory.weights_bytes: found {limit}, expected at least {need} for this plan; plan a smaller network"
        )


def check_room(head: Head, present: Network, home: StateDirectory) -> None:
    """Check that the disk has room for a bundle beside the one at work.

    Args:
        head: Of the bundle.
        present: The network at work.
        home: Where it is to go.

    Raises:
        NoRoom: It has not; the text says how much is missing.
        StagingError: The disk does not say.
    """
    need = len(head.raw) + sum(entry.bytes for entry in head.manifest.files.values())
    if present.policy == "persistent":
        need += moved_bytes(head.manifest)
    try:
        free = home.bundles.free_bytes()
    except OSError as error:
        raise StagingError(f"the state directory cannot be looked at: {error.strerror}; look after it") from error
    if free < need:
        raise NoRoom(
            f"disk: found {max(0, free)} bytes free for bundles, expected {need}; make room for {need - free} more, "
            "then push again: the bundle at work stays until the new one has proved itself"
        )


def gap_s(head: Head, present: Network) -> float | None:
    """Seconds, about, for which a device will not answer; None if its memory has room for both plans.

    Judged by what the last load took, scaled by size.

    Args:
        head: Of the bundle that is pushed.
        present: The network at work.
    """
    profile = present.profile
    copies = 2 if present.policy == "shadow" else 1
    held = announced_bytes(present.bundle.manifest, copies, profile.bank.snap)
    need = announced_need(head.manifest, profile, present.wanted_policy)
    if affords_comfort(present.bundle.manifest, profile):
        held = comfort_bytes(present.bundle.manifest, profile)
    if affords_comfort(head.manifest, profile):
        need = comfort_bytes(head.manifest, profile)
    if held + need <= profile.memory.weights_bytes:
        return None
    new, old = (sum(entry.bytes for entry in one.files.values()) for one in (head.manifest, present.bundle.manifest))
    return present.load_s * new / old


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
