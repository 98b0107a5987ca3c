"""Which answers a network may give while it walks: those of the states of the way, to the bit.

A state is a prefix of a leg's chunk list. Increments are whole chunks, of as many as the budget allows at the time, so
every position of the list is a state that a device may answer from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runtime.plan.bundle import Bundle, Transition
from runtime.plan.graphs import compact_session, live_session
from runtime.walking.bank import Increment, InPlaceBank
from runtime.walking.rows import Floats
from runtime.walking.session import Session, Weights


@dataclass(frozen=True)
class Legal:
    """Answers, raw, of one mode or leg: a set for each question.

    Attributes:
        modes: Mode to the answers of its state, and of its compact graph where that may answer.
        legs: Mode left and mode reached to the answers of all states between, both ends included.
        states: States that were asked.
    """

    modes: dict[str, list[frozenset[bytes]]]
    legs: dict[tuple[str, str], list[frozenset[bytes]]]
    states: int

    def at(self, mode: str, which: int, outputs: bytes) -> bool:
        """Whether a network that rests may answer so."""
        return outputs in self.modes[mode][which]

    def between(self, begin: str, end: str, which: int, outputs: bytes) -> bool:
        """Whether a network on its way may answer so."""
        return any(outputs in answers[which] for answers in (self.legs[begin, end], self.modes[begin], self.modes[end]))


def legal_answers(bundle: Bundle, questions: Sequence[Floats], *, snap: bool) -> Legal:
    """Ask every position of every transition, both ways being the same states, and every mode.

    Args:
        bundle: The plan.
        questions: Inputs in the very batches that will be asked: another size may differ in the last bits.
        snap: Whether modes are answered from their compact graphs too.
    """
    session = live_session(bundle, 1)
    modes = {}
    for mode, state in bundle.states.items():
        found = [_answers(session, session.bind(bundle.table.tensors(state)), questions)]
        if snap:
            compact = compact_session(bundle, mode, 1)
            found.append(_answers(compact, compact.bind({}), questions))
        modes[mode] = [frozenset(one) for one in zip(*found, strict=True)]
    legs, states = {}, 0
    for move in bundle.transitions:
        answers = _along(session, bundle, move, questions)
        states += len(move.chunks) + 1
        legs[move.ends] = legs[move.ends[::-1]] = answers
    return Legal(modes, legs, states)


def _along(session: Session, bundle: Bundle, move: Transition, questions: Sequence[Floats]) -> list[frozenset[bytes]]:
    """Answers at every position of a transition, walked as a device walks it."""
    table, chunks = bundle.table, move.chunks
    bank: InPlaceBank[Weights] = InPlaceBank(table, bundle.states[move.ends[0]], session.bind)
    found = []
    for position in range(len(chunks) + 1):
        if position:
            bank.write(Increment.gather(table, chunks, position - 1, position))
        with bank.read() as weights:
            found.append(_answers(session, weights, questions))
    return [frozenset(one) for one in zip(*found, strict=True)]


def _answers(session: Session, weights: Weights, questions: Sequence[Floats]) -> list[bytes]:
    return [np.ascontiguousarray(session.run(x, weights), "<f4").tobytes() for x in questions]
