"""Tokens open the door to those who have them, and to nobody who has the file."""

import json
import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.private_files import PrivateFileError
from runtime.service.tokens import LIMIT, Scope, Tokens, TooManyTokens, UnknownToken


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tokens.json"


def id_of(token):
    return token.split("_")[1]


@pytest.mark.parametrize("scope", list(Scope))
def test_a_token_is_who_it_was_made_for(path, scope):
    tokens = Tokens(path)
    principal = tokens.verify(tokens.add("a desk", scope))
    assert (principal.name, principal.scope) == ("a desk", scope)


@given(st.text(max_size=200))
def test_no_text_is_a_token(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "tokens.json"
    assert Tokens(path).verify(text) is None


def test_every_changed_character_makes_it_nobody_s(path):
    tokens = Tokens(path)
    token = tokens.add("x", Scope.READ)
    for place in range(len(token)):
        other = token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]
        assert tokens.verify(other) is None, place
    assert tokens.verify(token[:-1]) is None
    assert tokens.verify(token + "A") is None
    assert tokens.verify(token) is not None


def test_the_file_holds_no_secret_and_is_its_owner_s_alone(path):
    token = Tokens(path).add("x", Scope.ADMIN)
    secret = token.split("_", 2)[2]
    assert secret not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one for one in os.listdir(path.parent) if one not in {"tokens.json", ".tokens.json.lock"}] == []


def test_what_another_process_revokes_is_worthless_at_once(path):
    service, command = Tokens(path), Tokens(path)
    token = service.add("x", Scope.READ)
    assert service.verify(token) is not None
    command.revoke(id_of(token))
    assert service.verify(token) is None
    assert service.listed() == ()


def test_a_rotated_token_keeps_name_and_scope_and_the_old_secret_opens_nothing(path):
    tokens = Tokens(path)
    old = tokens.add("x", Scope.SWITCH)
    new = tokens.rotate(id_of(old))
    assert id_of(new) == id_of(old)
    assert tokens.verify(old) is None
    assert tokens.verify(new).scope is Scope.SWITCH


def test_an_unknown_token_is_named(path):
    tokens = Tokens(path)
    for act in (tokens.revoke, tokens.rotate):
        with pytest.raises(UnknownToken, match="000000000000"):
            act("000000000000")


def test_there_is_an_end_to_tokens(path):
    tokens = Tokens(path)
    first = json.dumps(
        {"schema": "geoshift.tokens/1", "tokens": [
            {"id": f"{n:012x}", "name": "x", "scope": 1, "digest": "0" * 64} for n in range(LIMIT)
        ]}
    )  # fmt: skip
    path.write_text(first)
    path.chmod(0o600)
    with pytest.raises(TooManyTokens, match="revoke"):
        tokens.add("one more", Scope.READ)
    assert path.read_text() == first


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{", b'{"schema": "x", "tokens": [{"id": "../../etc"}]}', b"\xff", b"x" * 300_000],
)
def test_a_damaged_file_lets_nobody_in_and_is_left_as_it_is(path, content):
    path.write_bytes(content)
    path.chmod(0o600)
    tokens = Tokens(path)
    with pytest.raises(PrivateFileError, match=r"tokens\.json"):
        tokens.verify("gs_000000000000_x")
    with pytest.raises(PrivateFileError, match=r"tokens\.json"):
        tokens.add("x", Scope.READ)
    assert path.read_bytes() == content


def test_a_file_that_others_may_read_is_refused(path):
    Tokens(path).add("x", Scope.READ)
    path.chmod(0o644)
    with pytest.raises(PrivateFileError, match="0644"):
        Tokens(path).verify("gs_000000000000_x")


def test_a_link_in_its_place_is_refused(path, tmp_path):
    other = tmp_path / "other.json"
    Tokens(other).add("x", Scope.ADMIN)
    path.symlink_to(other)
    with pytest.raises(OSError, match="symbolic"):
        Tokens(path).verify("gs_000000000000_x")


def test_a_name_cannot_bring_commands_for_a_terminal(path):
    tokens = Tokens(path)
    tokens.add("a\x1b[31m\nb" + "c" * 100, Scope.READ)
    (entry,) = tokens.listed()
    assert entry.name.isprintable()
    assert len(entry.name) == 64
