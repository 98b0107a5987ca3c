"""Pushes a plan from the desktop: checks it whole, sends what is missing, has it take over, and waits for the end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final
from urllib.parse import quote

from device_profiles.errors import GeoshiftError
from runtime.desktop.channel import Channel
from runtime.desktop.pinning import Unreachable
from runtime.device.views import PushView
from runtime.errors import Conflict, GapNeeded
from runtime.plan import bundle as bundles
from runtime.plan.bundle import Bundle
from runtime.plan.bundle_files import MANIFEST, SIGNATURE
from runtime.plan.trust import Trust
from runtime.service.messages import BundleView

TARGET: Final = "/v1/bundles"
PART_BYTES: Final = 1 << 20
"""Of a file in one request: one takes a second on a slow network, and the device allows 30."""
PART_S: Final = 30.0
"""A slow card may take so long to flush a file."""
TRIES: Final = 5
"""For one part, when the network fails; the device knows what it has."""
STEP_S: Final = 1.0

Told = Callable[[PushView], None]


class Pusher:
    """Pushes plans over one channel.

    Args:
        channel: The way to the device.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def at_work(self) -> BundleView:
        """The bundle at work."""
        return self._channel.get(TARGET, BundleView)

    def push(
        self,
        path: str | os.PathLike[str],
        *,
        allow_gap: bool | Callable[[float], bool] = False,
        trust: Trust | None = None,
        told: Told = lambda view: None,
    ) -> PushView:
        """Push a bundle and wait for the end; what is sent are the bytes that were checked here.

        Args:
            path: The bundle's directory.
            allow_gap: Whether the device may stop answering if it has to, or who decides that, told for how many
                seconds.
            trust: Keys of which one must have signed; None to leave that to the device.
            told: Told of every step.

        Returns:
            How it ended; ``outcome`` says whether it is at work.

        Raises:
            BundleError: The bundle is refused here.
            PushRefused: The device refuses it.
            GapNeeded: The device would have to stop answering, and may not.
            Conflict: A walk or another push is under way.
            NoRoom: The device's disk has no room.
            Unreachable: The device is gone; what became of the push it will say.
        """
        bundle = bundles.read(path, trust)
        view = self._begun(bundle)
        told(view)
        if view.outcome is not None:
            return view
        try:
            if view.gap_s is not None and not (allow_gap if isinstance(allow_gap, bool) else allow_gap(view.gap_s)):
                raise GapNeeded(
                    f"the device's memory has no room for two plans, so it would not answer for about "
                    f"{view.gap_s:.1f} s; nothing was changed: allow that with --allow-gap"
                )
            view = self._sent(bundle, view, told)
            view = self._committed(view)
        except Conflict:
            raise  # what was sent is there for the next try
        except BaseException:
            # Where it went on all the same, the device refuses this.
            with suppress(GeoshiftError):
                self._channel.delete(f"{TARGET}/{view.id}")
            raise
        told(view)
        return self._ended(view, told)

    def _begun(self, bundle: Bundle) -> PushView:
        signature = bundle.files.get(SIGNATURE)
        headers = {} if signature is None else {"Geoshift-Signature": signature.hex()}
        return self._channel.post_bytes(TARGET, bundle.files[MANIFEST], headers, PushView)

    def _sent(self, bundle: Bundle, view: PushView, told: Told) -> PushView:
        for name in sorted(view.missing):
            raw, offset = bundle.files[name], view.missing[name]
            while name in view.missing:
                view = self._part(bundle, view, name, offset, raw[offset : offset + PART_BYTES])
                offset = view.missing.get(name, 0)
                told(view)
        return view

    def _part(self, bundle: Bundle, view: PushView, name: str, offset: int, part: bytes) -> PushView:
        """Send a part; where the network fails, ask what the device has."""
        target = f"{TARGET}/{view.id}/files/{quote(name)}?offset={offset}"
        for _ in range(TRIES - 1):
            try:
                return self._channel.put(target, part, PushView, PART_S)
            except Unreachable:
                time.sleep(STEP_S)
            with suppress(Unreachable):
                view = self._begun(bundle)
                if view.missing.get(name, -1) != offset:
                    return view
        return self._channel.put(target, part, PushView, PART_S)

    def _committed(self, view: PushView) -> PushView:
        """Have the plan take over; where the answer gets lost, see whether it does."""
        try:
            return self._channel.post(f"{TARGET}/{view.id}/commit", {"allow_gap": view.gap_s is not None}, PushView)
        except Unreachable:
            found = self._look(view)
            if found.phase == "receiving":
                raise
            return found

    def _ended(self, view: PushView, told: Told) -> PushView:
        """Wait for the end."""
        while view.outcome is None:
            before, view = view, self._look(view)
            if view != before:
                told(view)
        return view

    def _look(self, view: PushView) -> PushView:
        """The push as it is in a moment, patiently: the device may have much to do."""
        target = f"{TARGET}/{view.id}?wait_s={STEP_S}"
        for _ in range(TRIES - 1):
            try:
                return self._channel.get(target, PushView, STEP_S)
            except Unreachable:
                time.sleep(STEP_S)
        return self._channel.get(target, PushView, STEP_S)
