"""Pairing: the code lets one client in, once, in time, and nobody who sits in the middle."""

import stat

import pytest

from runtime.pairing_proof import ALPHABET, CODE_LENGTH, new_code, normal, proof, stretch
from runtime.service import backoff
from runtime.service.backoff import Backoff
from runtime.service.pairing import LIFETIME_S, MOST_WRONG, Pairing, PairingRefused, PairingTooSoon
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


WRONG = b"\0" * 32


def test_an_attacker_s_wrong_guesses_keep_nobody_out_at_another_address(pairing, tokens, clock):
    code = pairing.open(MINE, Scope.ADMIN)
    for number in range(1000):
        clock.wait(0.01)
        with pytest.raises(PairingRefused):
            pairing.admit(NONCE, WRONG, "x", tokens, f"192.0.2.{number % 8}")
    token, _ = pairing.admit(NONCE, answer(code), "desk", tokens, "192.0.2.99")
    assert tokens.verify(token)


def test_one_address_guesses_a_few_times_and_then_ever_more_slowly(pairing, tokens, clock):
    pairing.open(MINE, Scope.ADMIN)
    guesses, waits = 0, []
    while pairing.waits():
        try:
            pairing.admit(NONCE, WRONG, "x", tokens, "192.0.2.1")
        except PairingTooSoon as soon:
            waits.append(soon.wait_s)
            clock.wait(soon.wait_s)
        except PairingRefused:
            guesses += 1
    assert guesses <= 20
    assert waits[:7] == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0]


def test_who_waits_is_not_looked_at_and_who_is_right_in_time_begins_anew(pairing, tokens, clock):
    code = pairing.open(MINE, Scope.READ)
    for _ in range(5):
        with pytest.raises(PairingRefused, match="wrong code"):
            pairing.admit(NONCE, WRONG, "x", tokens, "192.0.2.1")
    with pytest.raises(PairingTooSoon):
        pairing.admit(NONCE, answer(code), "x", tokens, "192.0.2.1")
    clock.wait(1.0)
    pairing.admit(NONCE, answer(code), "x", tokens, "192.0.2.1")
    pairing.open(MINE, Scope.READ)
    for _ in range(4):
        with pytest.raises(PairingRefused, match="wrong code"):
            pairing.admit(NONCE, WRONG, "x", tokens, "192.0.2.1")


def test_a_wrong_proof_writes_nothing(pairing, tokens, tmp_path):
    pairing.open(MINE, Scope.READ)
    before = (tmp_path / "pairing.json").stat()
    with pytest.raises(PairingRefused):
        pairing.admit(NONCE, WRONG, "x", tokens)
    assert (tmp_path / "pairing.json").stat() == before


def test_a_code_stands_a_number_of_guesses_that_finds_none(tmp_path, tokens, clock):
    assert MOST_WRONG / len(ALPHABET) ** CODE_LENGTH < 2e-11
    pairing = Pairing(tmp_path / "pairing.json", clock, lambda: "this boot", most_wrong=50)
    pairing.open(MINE, Scope.READ)
    code = pairing.open(MINE, Scope.READ)
    for number in range(50):
        assert pairing.waits()
        with pytest.raises(PairingRefused, match="wrong code"):
            pairing.admit(NONCE, WRONG, "x", tokens, str(number))
    with pytest.raises(PairingRefused, match="no open code"):
        pairing.admit(NONCE, answer(code), "x", tokens)


def test_addresses_that_are_remembered_are_a_bounded_number_and_forgotten_in_time(clock):
    kept = Backoff(clock)
    for number in range(backoff.LIMIT + 10):
        kept.failed(number)
    assert len(kept) == backoff.LIMIT
    for _ in range(2000):
        kept.failed("x")
    assert kept.wait_s("x") == backoff.MOST_S
    clock.wait(backoff.MOST_S + backoff.FORGET_S)
    kept.failed("x")
    assert kept.wait_s("x") == 0.0


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
    path.write_bytes(b'{"scope": 99')
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
