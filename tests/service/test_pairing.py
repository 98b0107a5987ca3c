"""Pairing: the code lets one client in, once, in time, and nobody who sits in the middle."""

import stat

import pytest

from runtime.pairing_proof import ALPHABET, new_code, normal, proof, stretch
from runtime.service.pairing import LIFETIME_S, TRIES, Pairing, PairingRefused
from runtime.service.tokens import Scope, Tokens
from tests.service.clocks import Clock

MINE, ANOTHERS = "aa" * 32, "bb" * 32
NONCE = b"n" * 32


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def pairing(tmp_path, clock):
    return Pairing(tmp_path / "pairing.json", clock, lambda: "this boot")


@pytest.fixture
def tokens(tmp_path):
    return Tokens(tmp_path / "tokens.json")


def answer(code, certificate=MINE, nonce=NONCE):
    return proof(stretch(code, certificate), "client", nonce)


def test_the_code_lets_one_client_in_once_and_both_sides_know_it(pairing, tokens):
    code = pairing.open(MINE, Scope.SWITCH)
    assert pairing.waits()
    token, back = pairing.admit(NONCE, answer(code), "desk", tokens)
    assert tokens.verify(token).scope is Scope.SWITCH
    assert back == proof(stretch(code, MINE), "device", NONCE)
    assert not pairing.waits()
    with pytest.raises(PairingRefused, match="no open code"):
        pairing.admit(NONCE, answer(code), "desk", tokens)


def test_somebody_in_the_middle_with_another_certificate_gets_nothing(pairing, tokens):
    code = pairing.open(MINE, Scope.ADMIN)
    # The client saw the certificate of the one in the middle, who passes its proof on.
    with pytest.raises(PairingRefused, match="wrong code"):
        pairing.admit(NONCE, answer(code, ANOTHERS), "desk", tokens)
    assert tokens.listed() == ()


def test_a_proof_that_was_overheard_does_not_fit_another_nonce_or_the_other_side(pairing, tokens):
    code = pairing.open(MINE, Scope.ADMIN)
    for wrong in (answer(code, nonce=b"m" * 32), proof(stretch(code, MINE), "device", NONCE), b"", b"\0" * 32):
        with pytest.raises(PairingRefused):
            pairing.admit(NONCE, wrong, "desk", tokens)
    assert tokens.listed() == ()


def test_a_few_wrong_guesses_close_the_door(pairing, tokens):
    code = pairing.open(MINE, Scope.ADMIN)
    for _ in range(TRIES):
        with pytest.raises(PairingRefused):
            pairing.admit(NONCE, answer("0000-0000-0000"), "x", tokens)
    with pytest.raises(PairingRefused, match="no open code"):
        pairing.admit(NONCE, answer(code), "x", tokens)


def test_it_closes_after_its_time(pairing, tokens, clock):
    code = pairing.open(MINE, Scope.READ)
    clock.wait(LIFETIME_S)
    assert not pairing.waits()
    with pytest.raises(PairingRefused):
        pairing.admit(NONCE, answer(code), "x", tokens)


def test_it_does_not_outlive_a_boot(tmp_path, clock, tokens):
    path = tmp_path / "pairing.json"
    code = Pairing(path, clock, lambda: "before").open(MINE, Scope.READ)
    clock.now = 1.0
    with pytest.raises(PairingRefused):
        Pairing(path, clock, lambda: "after").admit(NONCE, answer(code), "x", tokens)
    assert not path.exists()


def test_a_second_code_replaces_the_first(pairing, tokens):
    first, second = pairing.open(MINE, Scope.READ), pairing.open(MINE, Scope.READ)
    with pytest.raises(PairingRefused):
        pairing.admit(NONCE, answer(first), "x", tokens)
    pairing.admit(NONCE, answer(second), "x", tokens)


def test_neither_code_nor_key_to_the_client_is_in_the_file_for_others(pairing, tmp_path):
    code = pairing.open(MINE, Scope.READ)
    path = tmp_path / "pairing.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert code not in path.read_text()
    assert normal(code) not in path.read_text()


def test_a_damaged_file_is_no_code(pairing, tmp_path, tokens):
    path = tmp_path / "pairing.json"
    path.write_bytes(b'{"tries": 99')
    path.chmod(0o600)
    with pytest.raises(PairingRefused):
        pairing.admit(NONCE, b"", "x", tokens)
    assert not path.exists()


def test_people_may_write_a_code_as_they_like():
    code = new_code()
    assert stretch(code, MINE) == stretch(code.lower().replace("-", " "), MINE)
    assert normal("oO iI lL-0") == "0011110"
    assert set(normal(code)) <= set(ALPHABET)
    assert len(normal(code)) == 12


def test_codes_differ():
    assert len({new_code() for _ in range(100)}) == 100
