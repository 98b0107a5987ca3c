"""Whether a plan fits a device, asked when it is planned, before it is loaded, and before it is pushed."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal, cast

from msgspec import UNSET, structs

from device_profiles import Profile, ProfileError, Weights, loader
from runtime.errors import BundleError
from runtime.plan.bundle import ROWS, Bundle
from runtime.plan.manifest import Manifest
from runtime.plan.onnx_file import read_operators
from runtime.walking.rows import MovedLayer

Policy = Literal["in-place", "shadow", "persistent"]

SMALL_BYTES: Final = 16 << 20
"""Largest network whose live graph is laid out. It takes convolutions that are short of work to gain by it: resnet8
(0.3 MB) answered in 0.8 of the time, VGG-11 (112 MB) in 0.96, and the graph is written to a file and read twice."""


def choose_policy(bundle: Bundle, profile: Profile, policy: str | None = None) -> Policy:
    """Bank policy for a plan on a device: the one asked for, else the profile's; ``auto`` takes what memory allows.

    Args:
        bundle: The plan.
        profile: The device.
        policy: ``auto``, ``in-place``, ``shadow``, ``persistent``, or None for the profile's own.

    Raises:
        BundleError: The plan does not fit, or nothing is served there; the text names limit, need and remedy.
    """
    origin = f"{bundle.path} on {profile.name}"
    check_live(profile, origin)
    check_bundle(bundle, profile)
    limit = profile.memory.weights_bytes
    wanted = policy or profile.bank.policy
    if wanted not in ("auto", "in-place", "shadow", "persistent"):
        raise BundleError(f"{origin}: policy: found {wanted!r}, expected auto, in-place, shadow or persistent")
    if wanted == "shadow" and (why := _one_copy(profile)):
        raise BundleError(f"{origin}: policy: found 'shadow', expected in-place or persistent, as {why}; use in-place")
    in_place, shadow = (peak_bytes(bundle, copies, profile.bank.snap) for copies in (1, 2))
    wanted = resolved(bundle, profile, wanted)
    need = shadow if wanted == "shadow" else in_place
    if need > limit:
        remedy = "use policy in-place" if in_place <= limit and wanted == "shadow" else _for_memory(need, profile)
        raise BundleError(f"{origin}: memory.weights_bytes: found {limit}, expected at least {need}; {remedy}")
    return cast(Policy, wanted)


def resolved(bundle: Bundle, profile: Profile, policy: str) -> str:
    """The policy itself, or what ``auto`` comes to: shadow where memory allows it."""
    if policy != "auto":
        return policy
    fits = peak_bytes(bundle, 2, profile.bank.snap) <= profile.memory.weights_bytes
    return "shadow" if fits and not _one_copy(profile) else "in-place"


def check_bundle(bundle: Bundle, profile: Profile) -> None:
    """Check that a plan is one for a device: its weights, its operators, its rows.

    Args:
        bundle: The plan.
        profile: The device.

    Raises:
        BundleError: It is not; the text names limit, need and the nearest thing that would fit.
    """
    origin = f"{bundle.path} on {profile.name}"
    check_weights(bundle.profile.weights, profile, origin)
    if profile.target.operators:
        for name, graph in {"the live network": bundle.graph, **bundle.compact}.items():
            check_operators(read_operators(graph, f"{bundle.path}: {name}"), profile, origin)
    check_rows(bundle.table.layers, profile, origin)


def check_live(profile: Profile, origin: str) -> None:
    """Check that this project's runtime serves on a device.

    Raises:
        BundleError: Plans are only made and played for it.
    """
    if profile.target.runs != "live":
        others = _builtin(lambda one: one.target.runs == "live" and one.weights == profile.weights)
        serve = f"serve it on one of the profiles {others}" if others else "serve a plan made for a device that is live"
        raise BundleError(
            f"{origin}: target.runs: found {profile.target.runs!r}, expected 'live': nothing is served on architecture "
            f"{profile.target.architecture!r}; play the plan with `geoshift simulate`, or {serve}"
        )


def check_weights(planned: Weights, profile: Profile, origin: str) -> None:
    """Check that a plan's weights are those that a device stores.

    Args:
        planned: How the device that the plan was made for stores a weight.
        profile: The device.
        origin: What to call the plan in errors.

    Raises:
        BundleError: Every state of the plan was measured with other weights.
    """
    if not _holds(profile.weights, planned):
        others = _builtin(lambda one: _holds(one.weights, planned))
        use = f", or use it on one of the profiles {others}" if others else ""
        raise BundleError(
            f"{origin}: weights: found a plan for {in_words(planned)}, expected {in_words(profile.weights)}, as the "
            f"device stores them; plan again with its profile{use}"
        )


def check_manifest_weights(manifest: Manifest, profile: Profile, origin: str) -> None:
    """As ``check_weights``, of a bundle of which only the manifest is known.

    Raises:
        BundleError: The weights are others, or the profile in the manifest is not valid.
    """
    try:
        planned = loader.from_builtins(manifest.profile, f"{origin}: profile")
    except ProfileError as error:
        raise BundleError(str(error)) from error
    check_weights(planned.weights, profile, f"{origin} on {profile.name}")


def check_operators(found: Iterable[str], profile: Profile, origin: str) -> None:
    """Check that a device has all operators of a graph.

    Raises:
        BundleError: It lacks some; the text names them.
    """
    known = profile.target.operators
    missing = sorted(set(found) - set(known)) if known else []
    if missing:
        others = _builtin(lambda one: not one.target.operators and one.weights == profile.weights)
        use = f", or use one of the profiles {others}" if others else ""
        raise BundleError(
            f"{origin}: target.operators: found {', '.join(missing)} in the network, expected only "
            f"{', '.join(known)}; build the network from these{use}"
        )


def check_size(weights: int, profile: Profile, origin: str) -> None:
    """Check, before anything is spent on planning, that a device has the memory for a network.

    Args:
        weights: Numbers in the dense network.
        profile: The device.
        origin: What to call the plan in errors.

    Raises:
        BundleError: Even with one copy of every weight it has not.
    """
    limit = profile.memory.weights_bytes
    if profile.target.runs == "live":
        # The plan's own copy, which every mode is rebuilt from, beside the one that answers.
        need, fitting = 8 * weights, limit // 8
    else:
        need, fitting = stored_bytes(weights, profile.weights), int(limit * 8 / _bits(profile.weights))
    if need > limit:
        raise BundleError(
            f"{origin}: memory.weights_bytes: found {limit}, expected at least {need} for {weights:,} weights of "
            f"{in_words(profile.weights)}; {_for_memory(need, profile)}; up to {fitting:,} weights fit"
        )


def check_plan(manifest: Manifest, profile: Profile, origin: str) -> None:
    """Check that a finished plan fits the memory of the device that it was made for, under its own policy.

    Raises:
        BundleError: It does not; the text names limit, need and remedy.
    """
    limit = profile.memory.weights_bytes
    if profile.target.runs == "live" and (need := announced_need(manifest, profile, None)) > limit:
        raise BundleError(
            f"{origin}: memory.weights_bytes: found {limit}, expected at least {need}; {_for_memory(need, profile)}"
        )


def stored_bytes(weights: int, kind: Weights) -> int:
    """Memory that so many weights take on a device; biases count like weights."""
    return math.ceil(weights * _bits(kind) / 8)


def in_words(kind: Weights) -> str:
    """How a weight is stored, for people."""
    if kind.format != "int":
        return kind.format
    sign = "two cells a weight" if kind.sign == "differential" else "signed"
    power = ", a power of two" if kind.scales == "powers-of-two" else ""
    return f"int with {kind.bits} bits, {sign}, one scale a {kind.scale}{power}, bias {kind.bias}"


def _holds(device: Weights, planned: Weights) -> bool:
    """Whether a device stores weights as planned; where any scale will do, powers of two do as well."""
    return planned == device or (device.scales == "any" and planned == structs.replace(device, scales=planned.scales))


def _bits(kind: Weights) -> int:
    if kind.format != "int":
        return {"float32": 32, "float16": 16}[kind.format]
    return (kind.bits or 0) * (2 if kind.sign == "differential" else 1)


def _one_copy(profile: Profile) -> str:
    """Why a device holds no second copy, or nothing."""
    if not profile.memory.second_copy:
        return "memory.second_copy is false"
    return "writes.quiesce_required is true" if profile.writes.quiesce_required else ""


@functools.cache
def _known() -> tuple[Profile, ...]:
    return tuple(loader.load(name) for name in loader.builtin_names())


def _builtin(fits: Callable[[Profile], bool]) -> str:
    """Names of the built-in profiles that something is true of."""
    return ", ".join(one.name for one in _known() if fits(one))


def _for_memory(need: int, profile: Profile) -> str:
    """The nearest devices that have the memory."""
    others = _builtin(
        lambda one: (
            one.memory.weights_bytes >= need
            and one.target.runs == profile.target.runs
            and _holds(one.weights, profile.weights)
        )
    )
    use = f", or use one of the profiles {others}" if others else ""
    return f"plan a smaller network, raise the limit if the device has more{use}"


def peak_bytes(bundle: Bundle, copies: int, snap: bool) -> int:
    """Most memory that weights take at once, on arrival at a mode.

    The plan's own rows, which every walk back needs, and its scales; the live network's constants and its moved
    tensors; and, before it takes over from the live one, the largest compact network, once as arrays and once inside
    ONNX Runtime. All of it is float32, also where weights are codes: this runtime computes with what codes stand for.

    Args:
        bundle: The plan.
        copies: Copies of the moved tensors that the bank holds.
        snap: Whether a mode is answered from its compact network.
    """
    stored = (*bundle.tensors.values(), *bundle.table.pool.values(), *bundle.scales.values())
    plan = sum(tensor.nbytes for tensor in stored)
    constants = sum(tensor.nbytes for tensor in bundle.constants.values())
    moved = sum(layer.array_bytes * layer.units for layer in bundle.table.layers)
    compact = max(mode.weight_bytes for mode in bundle.manifest.modes) if snap else 0
    return plan + constants + copies * moved + 2 * compact


def needed_bytes(bundle: Bundle, profile: Profile, copies: int) -> int:
    """Memory that a device must have for a plan.

    One that serves holds what this runtime holds, see ``peak_bytes``. One that plans are only played for holds weights
    as it stores them, biases counted like weights, and no plan beside them.

    Args:
        bundle: The plan.
        profile: The device.
        copies: Copies of the moved tensors that are held.
    """
    if profile.target.runs == "live":
        return peak_bytes(bundle, copies, profile.bank.snap)
    moved = sum(layer.units * layer.width for layer in bundle.table.layers)
    numbers = sum(tensor.size for tensor in bundle.tensors.values()) + (copies - 1) * moved
    compact = max(mode.weight_bytes for mode in bundle.manifest.modes) // 4 if profile.bank.snap else 0
    return stored_bytes(numbers + compact, profile.weights)


def announced_bytes(manifest: Manifest, copies: int, snap: bool) -> int:
    """What ``peak_bytes`` will be of a bundle of which only the manifest is known; the head of a file more.

    Args:
        manifest: Of the bundle.
        copies: Copies of the moved tensors that the bank will hold.
        snap: Whether a mode is answered from its compact network.
    """
    scales = None if manifest.grid is UNSET else manifest.grid.scales
    base = manifest.model.dense_bytes
    rows = sum(manifest.files[name].bytes for name in (ROWS, scales) if name in manifest.files)
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
        room = shadow <= profile.memory.weights_bytes and not _one_copy(profile)
        wanted = "shadow" if room else "in-place"
    return shadow if wanted == "shadow" else in_place


def comfort_bytes(manifest: Manifest, profile: Profile) -> int:
    """Memory of a plan with all that makes a small network faster, at most.

    Two copies of the moved tensors, each laid out anew, the graph that is laid out, which has its constants in it, and
    a session of every graph.
    """
    base = manifest.model.dense_bytes
    laid_out = announced_bytes(manifest, 4, profile.bank.snap) + max(0, base - moved_bytes(manifest))
    return laid_out + base * (len(manifest.modes) + 1)


def affords_comfort(manifest: Manifest, profile: Profile) -> bool:
    """Whether a network is small and the device has that memory twice.

    Once would not do: a plan that is pushed is loaded beside the one at work.
    """
    small = manifest.model.dense_bytes <= SMALL_BYTES
    return small and 2 * comfort_bytes(manifest, profile) <= profile.memory.weights_bytes


def check_rows(layers: Sequence[MovedLayer], profile: Profile, origin: str) -> None:
    """Check that every row fits one increment of the device.

    Args:
        layers: All that move.
        profile: The device.
        origin: What to call the plan in errors.

    Raises:
        BundleError: One does not; the text names it, the limit and the remedy.
    """
    largest = max(layers, key=lambda layer: layer.row_bytes, default=None)
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
