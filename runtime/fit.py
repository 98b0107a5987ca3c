"""Whether a plan fits a device, asked before anything is loaded."""

from __future__ import annotations

import math
from typing import Literal, cast

from device_profiles import Profile
from runtime.bundle import ROWS, Bundle
from runtime.errors import BundleError
from runtime.manifest import Manifest
from runtime.rows import RowTable

Policy = Literal["in-place", "shadow", "persistent"]


def choose_policy(bundle: Bundle, profile: Profile, policy: str | None = None) -> Policy:
    """Bank policy for a plan on a device: the one asked for, else the profile's; ``auto`` takes what memory allows.

    Args:
        bundle: The plan.
        profile: The device.
        policy: ``auto``, ``in-place``, ``shadow``, ``persistent``, or None for the profile's own.

    Raises:
        BundleError: The plan does not fit; the text names limit, need and remedy.
    """
    origin = f"{bundle.path} on {profile.name}"
    check_rows(bundle.table, profile, origin)
    limit = profile.memory.weights_bytes
    wanted = policy or profile.bank.policy
    if wanted not in ("auto", "in-place", "shadow", "persistent"):
        raise BundleError(f"{origin}: policy: found {wanted!r}, expected auto, in-place, shadow or persistent")
    in_place, shadow = (peak_bytes(bundle, copies, profile.bank.snap) for copies in (1, 2))
    if wanted == "auto":
        wanted = "shadow" if shadow <= limit else "in-place"
    need = shadow if wanted == "shadow" else in_place
    if need > limit:
        remedy = "use policy in-place" if in_place <= limit and wanted == "shadow" else "plan a smaller network"
        raise BundleError(f"{origin}: memory.weights_bytes: found {limit}, expected at least {need}; {remedy}")
    return cast(Policy, wanted)


def peak_bytes(bundle: Bundle, copies: int, snap: bool) -> int:
    """Most memory that weights take at once, on arrival at a mode.

    The plan's own rows, which every walk back needs; the live network's constants and its moved tensors; and, before
    it takes over from the live one, the largest compact network, once as arrays and once inside ONNX Runtime.

    Args:
        bundle: The plan.
        copies: Copies of the moved tensors that the bank holds.
        snap: Whether a mode is answered from its compact network.
    """
    plan = sum(tensor.nbytes for tensor in (*bundle.tensors.values(), *bundle.table.pool.values()))
    constants = sum(tensor.nbytes for tensor in bundle.constants.values())
    moved = sum(layer.array_bytes * layer.units for layer in bundle.table.layers)
    compact = max(mode.weight_bytes for mode in bundle.manifest.modes) if snap else 0
    return plan + constants + copies * moved + 2 * compact


def announced_bytes(manifest: Manifest, copies: int, snap: bool) -> int:
    """What ``peak_bytes`` will be of a bundle of which only the manifest is known; the head of a file more.

    Args:
        manifest: Of the bundle.
        copies: Copies of the moved tensors that the bank will hold.
        snap: Whether a mode is answered from its compact network.
    """
    base, rows = manifest.model.dense_bytes, manifest.files[ROWS].bytes if ROWS in manifest.files else 0
    moved = moved_bytes(manifest)
    compact = max(mode.weight_bytes for mode in manifest.modes) if snap else 0
    return base + rows + max(0, base - moved) + copies * moved + 2 * compact


def moved_bytes(manifest: Manifest) -> int:
    """Bytes of one copy of the moved tensors."""
    return 4 * sum(math.prod(layer.shape) + (layer.shape[0] if layer.bias else 0) for layer in manifest.layers)


def announced_need(manifest: Manifest, profile: Profile, policy: str | None) -> int:
    """Memory that a bundle of which only the manifest is known will take, under the policy that it will get."""
    wanted = policy or profile.bank.policy
    in_place, shadow = (announced_bytes(manifest, copies, profile.bank.snap) for copies in (1, 2))
    if wanted == "auto":
        wanted = "shadow" if shadow <= profile.memory.weights_bytes else "in-place"
    return shadow if wanted == "shadow" else in_place


def check_rows(table: RowTable, profile: Profile, origin: str) -> None:
    """Check that every row fits one increment of the device.

    Raises:
        BundleError: One does not; the text names it, the limit and the remedy.
    """
    largest = max(table.layers, key=lambda layer: layer.row_bytes, default=None)
    if largest is not None and largest.row_bytes > profile.writes.bytes_per_increment:
        raise BundleError(
            f"{origin}: writes.bytes_per_increment: found {profile.writes.bytes_per_increment}, expected at least "
            f"{largest.row_bytes}, one row of {largest.name}, which is never written in parts; raise the budget"
        )


def check_profile_modes(manifest: Manifest, profile: Profile, origin: str) -> None:
    """Check that the plan has the modes that the device asks for by itself.

    Args:
        manifest: Of the plan.
        profile: The device.
        origin: What to call the plan in errors.

    Raises:
        BundleError: One is missing; the text names who asks for it.
    """
    wanted = {f"safety {rule.name}": rule.mode for rule in profile.safety}
    wanted |= {f"trigger {rule.name}": rule.mode for rule in profile.triggers}
    if profile.default_mode is not None:
        wanted["default_mode"] = profile.default_mode
    known = [mode.name for mode in manifest.modes]
    for who, mode in wanted.items():
        if mode not in known:
            raise BundleError(
                f"{origin} on {profile.name}: {who}: found mode {mode!r}, expected one of the plan's modes "
                f"{', '.join(known)}; plan with this profile, or correct it"
            )
