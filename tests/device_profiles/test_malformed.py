"""Every malformed profile is refused with file, line, key, what was found, what was expected and what to do."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from device_profiles import ProfileError, builtin_names, load, parse
from device_profiles.loader import MAX_BYTES
from tests.device_profiles.texts import VALID


@dataclass(frozen=True)
class Damage:
    """One edit of the valid profile, and the message that it must bring."""

    name: str
    old: str
    new: str
    line: int
    key: str
    found: str
    expected: str
    remedy: str = ""


# fmt: off
DAMAGES = (
    # types and limits
    Damage("unknown key", "threads: 4", "threads: 4\nthread: 4", 5, "thread", "an unknown key", "one of schema, name",
           "did you mean 'threads'?"),
    Damage("unknown inner key", "  weights_bytes", "  weight_bytes", 6, "memory.weight_bytes", "an unknown key",
           "one of weights_bytes", "did you mean 'weights_bytes'?"),
    Damage("missing key", "threads: 4\n", "", 1, "threads", "no such key", "an integer of at least 1",
           "add it (threads that compute one inference)"),
    Damage("missing inner key", "  max_drop_points: 1.0", "  {}", 12, "guard.max_drop_points", "no such key",
           "a finite number above 0 and of at most 100", "add it (worst accepted paired accuracy drop"),
    Damage("negative budget", "65536", "-5", 8, "writes.bytes_per_increment", "-5", "an integer above 0",
           "correct it (bytes of weights written between two inferences)"),
    Damage("zero memory", "1000000", "0", 6, "memory.weights_bytes", "0", "an integer above 0"),
    Damage("too large an integer", "65536", "9" * 18, 8, "writes.bytes_per_increment", "9" * 18,
           "an integer above 0 and of at most 9007199254740991"),
    Damage("huge integer", "65536", "9" * 5000, 8, "writes.bytes_per_increment", "inf", "an integer above 0"),
    Damage("hundreds of thousands of threads", "threads: 4", "threads: 400000", 4, "threads", "400000",
           "an integer of at least 1 and of at most 1024"),
    Damage("quoted number", "threads: 4", "threads: '4'", 4, "threads", "'4'", "an integer of at least 1"),
    Damage("float for an integer", "threads: 4", "threads: 4.0", 4, "threads", "4.0", "an integer of at least 1"),
    Damage("boolean for an integer", "threads: 4", "threads: true", 4, "threads", "true", "an integer of at least 1"),
    Damage("sexagesimal is text", "threads: 4", "threads: 1:30", 4, "threads", "'1:30'", "an integer of at least 1"),
    Damage("YAML 1.1 boolean is text", "snap: true", "snap: yes", 11, "bank.snap", "'yes'", "true or false"),
    Damage("no value", "threads: 4", "threads:", 4, "threads", "nothing", "an integer of at least 1"),
    Damage("list for a mapping", "  weights_bytes: 1000000", "  - 1", 5, "memory", "a list of 1 items",
           "a mapping with keys among weights_bytes"),
    Damage("mapping for a list", "  - [C1, C2]\n  - [C2, C3]", "  C1: C2", 27, "transitions", "a mapping of 1 keys",
           "a list"),
    Damage("not a number", "stall_budget_ms: 5", "stall_budget_ms: .nan", 10, "writes.stall_budget_ms", "nan",
           "a finite number above 0"),
    Damage("infinite", "1e2", ".inf", 9, "writes.increments_per_second", "inf", "a finite number above 0"),
    Damage("overflowing float", "1e2", "1e999", 9, "writes.increments_per_second", "inf", "a finite number above 0"),
    Damage("fraction above one", "0.5", "1.5", 21, "modes.C2.remove[0].fraction", "1.5",
           "a finite number above 0 and of at most 1"),
    Damage("all of the multiply-accumulates", "    from: C2", "    from: C2\n    macs: 1", 24, "modes.C3.macs", "1",
           "a finite number above 0 and below 1", "correct it (share of the dense network's multiply-accumulates"),
    Damage("none of the multiply-accumulates", "    from: C2", "    from: C2\n    macs: 0", 24, "modes.C3.macs", "0",
           "a finite number above 0 and below 1"),
    Damage("drop above a hundred", "1.0", "101", 13, "guard.max_drop_points", "101",
           "a finite number above 0 and of at most 100"),
    Damage("other version", "profile/1", "profile/2", 1, "schema", "'geoshift.profile/2'", "'geoshift.profile/1'"),
    Damage("unknown policy", "policy: auto", "policy: shadwo", 11, "bank.policy", "'shadwo'",
           "'auto' or 'in-place' or 'persistent' or 'shadow'", "did you mean 'shadow'?"),
    Damage("unknown role", "convolution", "convolutions", 20, "modes.C2.remove[0].layer.role", "'convolutions'",
           "'classifier' or 'convolution'", "did you mean 'convolution'?"),
    Damage("capital in the name", "name: board", "name: Board", 2, "name", "'Board'",
           "a name of at most 64 lowercase letters, digits and dashes"),
    Damage("line break in the name", "name: board", 'name: "board\\n"', 2, "name", "'board\\n'",
           "a name of at most 64"),
    Damage("climbing mode name", "  C1: {}", "  ../C1: {}", 16, "modes.'../C1'", "'../C1'", "a name of 1 to 64"),
    Damage("half a surrogate pair", "A board", '"\\udc00"', 3, "description", "'\\udc00'", "text"),
    Damage("triple for a pair", "[C2, C3]", "[C2, C3, C1]", 29, "transitions[1]", "a list of 3 items",
           "a list of 2 items"),
    # rules between parts
    Damage("no dense mode", "  C1: {}\n", "  C1: {from: C3, restore: [{layer: {name: fc1}, count: 1}]}\n", 15,
           "modes", "no mode without 'from'", "exactly one, the dense network"),
    Damage("two dense modes", "    from: C2\n    remove:\n      - layer: {name: fc1}\n        count: 3",
           "    remove: []", 22, "modes.C3", "no 'from', as in 'C1'", "exactly one mode without 'from'"),
    Damage("dense mode that removes", "  C1: {}", "  C1: {remove: [{layer: {name: fc1}, count: 1}]}", 16,
           "modes.C1.remove", "a change in the dense mode", "none"),
    Damage("dense mode with a target", "  C1: {}", "  C1: {macs: 0.5}", 16, "modes.C1.macs",
           "a change in the dense mode", "none"),
    Damage("from a missing mode", "from: C2", "from: C22", 23, "modes.C3.from", "'C22'", "one of the modes C1, C2, C3",
           "did you mean 'C2'?"),
    Damage("from itself", "from: C2", "from: C3", 23, "modes.C3.from", "the cycle C3 → C3", "modes that lead back"),
    Damage("cycle", "from: C1", "from: C3", 18, "modes.C2.from", "the cycle C2 → C3 → C2", "modes that lead back"),
    Damage("no change", "    remove:\n      - layer: {name: fc1}\n        count: 3", "    restore: []", 22, "modes.C3",
           "none of 'remove', 'restore', 'macs', 'watts', 'latency_ms', 'sparsity' and 'weights'",
           "at least one change against 'C2'"),
    Damage("dense mode that is sparse", "  C1: {}", "  C1: {sparsity: 0.5}", 16, "modes.C1.sparsity",
           "a change in the dense mode", "none"),
    Damage("dense mode that is another network", "  C1: {}", "  C1: {weights: given}", 16, "modes.C1.weights",
           "a change in the dense mode", "none"),
    Damage("all of the weights", "    from: C2", "    from: C2\n    sparsity: 1.0", 24, "modes.C3.sparsity", "1.0",
           "a finite number above 0 and below 1", "correct it (share of the weights that are zero"),
    Damage("a file in the profile", "    from: C2", "    from: C2\n    weights: /home/me/new.safetensors", 24,
           "modes.C3.weights", "'/home/me/new.safetensors'", "'given'", "correct it (given: another network's weights"),
    Damage("sparse and another network", "    from: C1", "    from: C1\n    sparsity: 0.5\n    weights: given", 19,
           "modes.C2.sparsity", "a change beside 'weights'", "none, since another network is taken as it is"),
    Damage("another network with units removed", "    from: C1", "    from: C1\n    weights: given", 20,
           "modes.C2.remove", "a change beside 'weights'", "none, since another network is taken as it is"),
    Damage("another network from a smaller one", "    from: C2\n    remove:\n      - layer: {name: fc1}\n"
           "        count: 3", "    from: C2\n    weights: given", 23, "modes.C3.from", "'C2'", "the dense mode",
           "name the mode without 'from'"),
    Damage("from a sparse mode", "    from: C1", "    from: C1\n    sparsity: 0.5", 24, "modes.C3.from",
           "'C2', which is sparse", "the dense mode, or one that only lacks units",
           "make it from what 'C2' is made from, 'C1'"),
    Damage("from another network", "    from: C1\n    remove:\n      - layer: {role: convolution, position: 1}\n"
           "        fraction: 0.5", "    from: C1\n    weights: given", 21, "modes.C3.from",
           "'C2', which is another network", "the dense mode, or one that only lacks units"),
    Damage("sparse layers without a share", "    from: C1", "    from: C1\n    sparse_layers: [{name: fc1}]", 19,
           "modes.C2.sparse_layers", "layers, but no 'sparsity'", "both or neither"),
    Damage("sparse layer without a name", "    from: C1", "    from: C1\n    sparsity: 0.5\n    sparse_layers: [{}]",
           20, "modes.C2.sparse_layers[0]", "neither 'name' nor 'role'", "exactly one of them"),
    Damage("both count and fraction", "count: 3", "count: 3\n        fraction: 0.1", 25, "modes.C3.remove[0]",
           "both 'count' and 'fraction'", "exactly one of them"),
    Damage("neither count nor fraction", "        fraction: 0.5\n", "", 20, "modes.C2.remove[0]",
           "neither 'count' nor 'fraction'", "exactly one of them"),
    Damage("both name and role", "name: fc1", "name: fc1, role: classifier", 25, "modes.C3.remove[0].layer",
           "both 'name' and 'role'", "exactly one of them"),
    Damage("neither name nor role", "name: fc1", "position: 1", 25, "modes.C3.remove[0].layer",
           "neither 'name' nor 'role'", "exactly one of them"),
    Damage("position beside a name", "name: fc1", "name: fc1, position: 2", 25, "modes.C3.remove[0].layer.position",
           "2", "none beside 'name'"),
    Damage("position zero", "position: 1", "position: 0", 20, "modes.C2.remove[0].layer.position", "0",
           "1 for the first"),
    Damage("transition to a missing mode", "[C2, C3]", "[C3, C9]", 29, "transitions[1]", "'C9'",
           "one of the modes C1, C2, C3"),
    Damage("transition to itself", "[C2, C3]", "[C3, C3]", 29, "transitions[1]", "'C3' twice", "two distinct modes"),
    Damage("transition again", "[C2, C3]", "[C1, C2]", 29, "transitions[1]",
           "the pair 'C1', 'C2' again (first at transitions[0])", "each pair once"),
    Damage("transition reversed", "[C2, C3]", "[C2, C1]", 29, "transitions[1]",
           "the pair 'C2', 'C1' again (first at transitions[0])", "each pair once"),
    Damage("mode out of reach", "  - [C2, C3]\n", "", 22, "modes.C3", "no transition that leads to it",
           "a way from the dense mode", "add a pair with 'C3'"),
    # YAML
    Damage("duplicate key", "threads: 4", "threads: 4\nthreads: 5", 5, "threads", "this key again (first in line 4)",
           "every key once", "keep one"),
    Damage("duplicate mode", "  C3:", "  C2:", 22, "modes.C2", "this key again (first in line 17)", "every key once"),
    Damage("anchor", "threads: 4", "threads: &n 4", 4, "threads", "the anchor &n", "no anchors"),
    Damage("alias", "queue_limit: 8", "queue_limit: *n", 14, "queue_limit", "the alias *n", "values written out"),
    Damage("merge key", "  weights_bytes: 1000000", "  <<: {weights_bytes: 1}", 6, "memory.'<<'", "an unknown key",
           "one of weights_bytes"),
    Damage("tag that runs code", "threads: 4", "threads: !!python/object/apply:os.getpid []", 4, "threads",
           "the tag tag:yaml.org,2002:python/object/apply:os.getpid", "no tags"),
    Damage("harmless tag", "threads: 4", "threads: !!int 4", 4, "threads", "the tag tag:yaml.org,2002:int", "no tags"),
    Damage("number as key", "  C1: {}", "  1: {}", 16, "modes", "the key 1", "text as key", "write the key in quotes"),
    Damage("list as key", "  C1: {}", "  ? [C1]\n  : {}", 16, "modes", "the key a list of 1 items", "text as key"),
    Damage("deep nesting", "threads: 4", "threads: " + "[" * 5000, 4, "threads" + 11 * "[0]", "deeper nesting",
           "at most 12 levels"),
    Damage("tab", "  weights_bytes", "\tweights_bytes", 6, "memory", "a syntax error (found character '\\t'", "YAML"),
    Damage("open bracket", "snap: true}", "snap: true", 12, "bank", "a syntax error (", "YAML"),
    Damage("second document", "queue_limit: 8", "---\nqueue_limit: 8", 14, "(whole profile)", "a syntax error (",
           "YAML"),
    Damage("escape out of range", "A board", '"\\Uffffffff"', 3, "description",
           "an escape or a version out of range", "YAML"),
    Damage("version out of range", "schema:", "%YAML " + "1" * 5000 + ".1\n---\nschema:", 1, "(whole profile)",
           "an escape or a version out of range", "YAML"),
    Damage("control character", "A board", "A \x00 board", 3, "(whole profile)", "the character U+0000",
           "printable text"),
)
# fmt: on

WHOLE = (
    ("empty", b"", 1, "an empty document", "a mapping"),
    ("only a comment", b"# nothing\n", 1, "an empty document", "a mapping"),
    ("a list", b"- 1\n- 2\n", 1, "a list of 2 items", "a mapping with keys among schema, name"),
    ("a word", b"profile", 1, "'profile'", "a mapping with keys among schema, name"),
    ("a long text", b"x" * 5000, 1, "'" + "x" * 57 + "'... (5000 characters)", "a mapping with keys among"),
    ("not UTF-8", VALID.replace("A board", "Tafel für").encode("latin-1"), 3, "the byte 0xfc", "UTF-8 text"),
    ("UTF-16", VALID.encode("utf-16"), 1, "the byte 0xff", "UTF-8 text"),
    ("huge", b"#" * (MAX_BYTES + 1), None, f"more than {MAX_BYTES} bytes", f"at most {MAX_BYTES}"),
)


def refusal(place: Path) -> str:
    with pytest.raises(ProfileError) as caught:
        load(place)
    return str(caught.value)


def test_the_undamaged_text_is_accepted(tmp_path: Path) -> None:
    place = tmp_path / "board.yaml"
    place.write_text(VALID)
    assert load(place) == load(str(place)) == parse(VALID, "text")


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.name)
def test_damage_is_named(damage: Damage, tmp_path: Path) -> None:
    assert VALID.count(damage.old) >= 1
    place = tmp_path / "board.yaml"
    place.write_text(VALID.replace(damage.old, damage.new, 1))
    message = refusal(place)
    start = f"{place}, line {damage.line}: {damage.key}: found {damage.found}"
    line = next((line for line in message.splitlines() if line.startswith(start)), message)
    assert line.startswith(start)
    rest = line.removeprefix(start)
    assert f", expected {damage.expected}" in rest
    assert f"; {damage.remedy}" in rest


@pytest.mark.parametrize(("raw", "line", "found", "expected"), [case[1:] for case in WHOLE], ids=[c[0] for c in WHOLE])
def test_what_is_no_profile_at_all_is_named(
    raw: bytes, line: int | None, found: str, expected: str, tmp_path: Path
) -> None:
    place = tmp_path / "board.yaml"
    place.write_bytes(raw)
    where = str(place) if line is None else f"{place}, line {line}"
    assert f"{where}: (whole profile): found {found}, expected {expected}" in refusal(place)


def test_every_problem_is_named_at_once() -> None:
    text = VALID.replace("threads: 4", "threads: 0").replace("1000000", "-1").replace("count: 3", "count: 0")
    with pytest.raises(ProfileError) as caught:
        parse(text, "board.yaml")
    assert [problem.key for problem in caught.value.problems] == [
        "threads",
        "memory.weights_bytes",
        "modes.C3.remove[0].count",
    ]
    assert len(str(caught.value).splitlines()) == 3


def test_a_message_stays_readable_however_many_problems_there_are() -> None:
    text = VALID + "".join(f"extra{place}: 1\n" for place in range(500))
    with pytest.raises(ProfileError) as caught:
        parse(text, "board.yaml")
    assert len(caught.value.problems) == 500
    assert str(caught.value).splitlines()[-1] == "board.yaml: and 480 more; correct these first"


def test_text_given_directly_is_limited_too() -> None:
    with pytest.raises(ProfileError, match=f"^text: .* found more than {MAX_BYTES} bytes"):
        parse("#" * (MAX_BYTES + 1), "text")


def test_a_byte_order_mark_is_no_damage(tmp_path: Path) -> None:
    place = tmp_path / "board.yaml"
    place.write_bytes(b"\xef\xbb\xbf" + VALID.encode())
    assert load(place) == parse(VALID, "text")


@pytest.mark.parametrize("name", ["raspbery-pi-5", "missing/profile.yaml", "x" * 5000, "nul\0", ""])
def test_an_unknown_name_lists_the_known_ones(name: str) -> None:
    with pytest.raises(ProfileError) as caught:
        load(name)
    assert f"one of the built-in profiles {', '.join(builtin_names())}" in str(caught.value)


def test_a_mistyped_name_brings_the_nearest_one() -> None:
    with pytest.raises(ProfileError, match="did you mean 'raspberry-pi-5'"):
        load("raspbery-pi-5")


def test_a_folder_is_no_profile(tmp_path: Path) -> None:
    assert f"{tmp_path}: (whole profile): found no such file, expected a YAML file" in refusal(tmp_path)
