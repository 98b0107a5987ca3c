"""Laws of profiles: the round trip, frozen data, and a JSON Schema that accepts whatever the loader accepts."""

import copy
import json
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings

from device_profiles import Profile, ProfileError, as_builtins, from_builtins, json_schema, parse
from tests.device_profiles.profiles import profiles
from tests.device_profiles.texts import VALID

# A slow machine is not a failure.
unhurried = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])

SCHEMA = jsonschema.Draft202012Validator(json_schema())


@unhurried
@given(profiles())
def test_a_profile_survives_the_way_through_json(profile: Profile) -> None:
    data = as_builtins(profile)
    assert from_builtins(data, "data") == profile
    assert from_builtins(json.loads(json.dumps(data)), "data") == profile
    assert as_builtins(from_builtins(data, "data")) == data


@unhurried
@given(profiles())
def test_a_profile_survives_the_way_through_yaml(profile: Profile) -> None:
    # JSON is YAML, so this writes every scalar the schema knows.
    assert parse(json.dumps(as_builtins(profile)), "data") == profile


@unhurried
@given(profiles())
def test_the_json_schema_accepts_what_the_loader_accepts(profile: Profile) -> None:
    SCHEMA.validate(as_builtins(profile))


@unhurried
@given(profiles())
def test_reading_leaves_the_data_as_it_was(profile: Profile) -> None:
    data = as_builtins(profile)
    before = copy.deepcopy(data)
    read = from_builtins(data, "data")
    assert data == before
    data["modes"].clear()
    assert read == profile


def test_text_beyond_the_basic_plane_is_kept() -> None:
    assert parse(VALID.replace("A board", "A board 🍓"), "text").description == "A board 🍓"


def test_a_profile_is_frozen() -> None:
    profile = parse(VALID, "text")
    mode = profile.modes["C2"]
    parts = (profile, profile.memory, profile.writes, profile.bank, profile.guard, mode, mode.remove[0])
    for part in (*parts, mode.remove[0].layer):
        for name in part.__struct_fields__:
            with pytest.raises(AttributeError):
                setattr(part, name, None)
    assert isinstance(profile.transitions, tuple)
    assert isinstance(mode.remove, tuple)
    assert profile == parse(VALID, "text")


# What both the loader and the JSON Schema refuse: path, value put there, expectation in the message.
WRONG = (
    (("threads",), 0, "an integer of at least 1"),
    (("threads",), 1025, "an integer of at least 1 and of at most 1024"),
    (("threads",), True, "an integer"),
    (("threads",), None, "an integer"),
    (("schema",), "geoshift.profile/0", "'geoshift.profile/1'"),
    (("name",), "board\n", "a name of at most 64"),
    (("name",), "b" * 65, "a name of at most 64"),
    (("extra",), 1, "one of schema, name"),
    (("memory",), [], "a mapping with keys among weights_bytes"),
    (("memory", "weights_bytes"), 2**53, "an integer above 0 and of at most 9007199254740991"),
    (("writes", "increments_per_second"), -1.5, "a finite number above 0"),
    (("writes", "stall_budget_ms"), "5", "a finite number above 0"),
    (("bank", "policy"), "none", "'auto' or 'in-place' or 'persistent' or 'shadow'"),
    (("bank", "snap"), 1, "true or false"),
    (("guard", "max_drop_points"), 100.5, "of at most 100"),
    (("modes",), {}, "a mapping of 1 to 64 names"),
    (("modes",), {f"m{place}": {} for place in range(65)}, "a mapping of 1 to 64 names"),
    (("modes", "C2", "remove", 0, "count"), 1, "exactly one of them"),
    (("modes", "C2", "remove", 0, "fraction"), None, "exactly one of them"),
    (("modes", "C2", "remove", 0, "layer"), {}, "exactly one of them"),
    (("modes", "C2", "remove", 0, "layer", "name"), "conv1", "exactly one of them"),
    (("modes", "C2", "remove", 0, "layer", "position"), 0, "1 for the first"),
    (("modes", "C3", "remove", 0, "layer", "position"), 1, "none beside 'name'"),
    (("modes", "C3", "remove", 0, "layer", "name"), "", "text"),
    (("modes", "C3", "from"), "no/path", "a name of 1 to 64"),
    (("transitions",), {"C1": "C2"}, "a list"),
    (("transitions", 0), ["C1"], "a list of 2 items"),
    (("transitions", 0, 1), 2, "a name of 1 to 64"),
)


@pytest.mark.parametrize(("path", "value", "expected"), WRONG)
def test_loader_and_json_schema_refuse_alike(path: tuple[str | int, ...], value: object, expected: str) -> None:
    data: Any = as_builtins(parse(VALID, "text"))
    place = data
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(ProfileError) as caught:
        from_builtins(data, "plan.json: profile")
    assert f"expected {expected}" in str(caught.value) or f"and {expected}" in str(caught.value)
    assert str(caught.value).startswith("plan.json: profile: ")
    assert not SCHEMA.is_valid(data)


@pytest.mark.parametrize("data", [None, [], "text", 7, b"bytes", {1: 2}, {1.5: 2}, {None: 1}, object()])
def test_data_that_is_no_profile_is_refused(data: object) -> None:
    with pytest.raises(ProfileError, match=r"^data: "):
        from_builtins(data, "data")


def test_numbers_that_are_not_finite_are_refused() -> None:
    for value in (float("nan"), float("inf"), float("-inf"), 10**400):
        data = as_builtins(parse(VALID, "text"))
        data["writes"]["stall_budget_ms"] = value
        with pytest.raises(ProfileError, match="expected a finite number above 0"):
            from_builtins(data, "data")


def test_an_integer_too_long_to_print_is_described() -> None:
    data = as_builtins(parse(VALID, "text"))
    data["threads"] = 10**5000
    with pytest.raises(
        ProfileError, match="threads: found an integer of 16610 bits, expected an integer of at least 1"
    ):
        from_builtins(data, "data")
