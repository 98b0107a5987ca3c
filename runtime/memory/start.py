"""Where a network begins: as the journal says, or anew in the dense mode."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from runtime.errors import StateError
from runtime.memory.journal import NAME, Standing
from runtime.memory.recorder import Recorder
from runtime.memory.recovery import Place, find
from runtime.memory.restoring import Restorer, open_memory
from runtime.memory.state_directory import StateDirectory
from runtime.memory.weight_memory import WeightMemory
from runtime.plan.bundle import Bundle
from runtime.plan.fit import Policy
from runtime.walking.retarget import Router


@dataclass(frozen=True)
class Start:
    """What a network needs to begin.

    Attributes:
        place: Where it stands.
        recorder: What its walks are told to.
        memory: Persistent weight memory that stands there, with policy ``persistent``.
        restorer: Brings that memory to a mode.
    """

    place: Place
    recorder: Recorder
    memory: WeightMemory | None = None
    restorer: Restorer | None = None


def start(
    bundle: Bundle,
    policy: Policy,
    route: Router,
    home: StateDirectory | None,
    *,
    migrate: bool,
    mode: str | None = None,
) -> Start:
    """Find the place to begin. The journal is only read: it learns of this bundle once the canary was right.

    Args:
        bundle: The plan.
        policy: Bank policy.
        route: Routes between the modes of the plan.
        home: State directory; without one nothing is remembered.
        migrate: Whether a journal of another bundle is to be taken over, in this one's dense mode.
        mode: Mode to take it over in instead.

    Raises:
        StateError: The state directory is another bundle's or does not fit this one, its weight memory holds what the
            journal does not allow, or persistent memory is asked for and there is no directory.
    """
    persistent = policy == "persistent"
    fresh = Standing(bundle=bundle.id, release=0, mode=mode or bundle.manifest.modes[0].name)
    if home is None:
        if persistent:
            raise StateError("policy persistent: found no state directory, expected one for its file; give one")
        return Start(find(fresh, bundle.table, bundle.states, route, NAME), Recorder(fresh))
    origin = f"{home.path}/{NAME}"
    known = home.journal.standing
    if known is not None and known.bundle != bundle.id:
        if not migrate:
            raise StateError(
                f"{origin}: found the state of bundle {known.bundle[:16]}, expected {bundle.id[:16]}, that of "
                f"{bundle.path}; open that bundle, or migrate: this one begins in its dense mode, and counters and "
                "release are kept"
            )
        fresh = msgspec.structs.replace(fresh, release=known.release, counters=known.counters)
    standing = fresh if known is None or known.bundle != bundle.id else known
    place = find(standing, bundle.table, bundle.states, route, origin)
    if not persistent:
        return Start(
            place, Recorder(msgspec.structs.replace(standing, persistent=False, restoring=False), home.journal)
        )
    memory = open_memory(home, bundle.table, standing, place)
    standing = msgspec.structs.replace(standing, persistent=True, restoring=False)
    recorder = Recorder(standing, home.journal, memory)
    return Start(place, recorder, memory, Restorer(memory, recorder))
