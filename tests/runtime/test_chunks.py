"""Laws of rows and chunk lists."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import BundleError
from runtime.walking.bank import Increment, InPlaceBank, ShadowBank, increments
from runtime.walking.chunks import ChunkList
from runtime.walking.rows import BASE, ZERO, same_state
from tests.runtime.plans import LAYERS, states, table, writes

NAMES = tuple(layer.name for layer in LAYERS)


def weights(state):
    return table().tensors(state)


def equal_bits(one, other):
    return all(one[name].tobytes() == other[name].tobytes() for name in one)


@given(states(), writes())
def test_every_prefix_is_the_writes_so_far(start, made):
    chunks = ChunkList.build(NAMES, start, made)
    for position in range(len(chunks) + 1):
        expected = {name: versions.copy() for name, versions in start.items()}
        for k in range(position):
            expected[NAMES[chunks.layer[k]]][chunks.row[k]] = chunks.new[k]
        assert same_state(chunks.state_at(start, position), expected)


@given(states(), writes())
def test_writes_that_change_nothing_are_left_out(start, made):
    chunks = ChunkList.build(NAMES, start, made)
    assert (chunks.old != chunks.new).all()


@given(states(), writes(), st.data())
def test_the_way_back_passes_the_same_states_and_ends_on_the_same_bits(start, made, data):
    chunks = ChunkList.build(NAMES, start, made)
    end = chunks.state_at(start, len(chunks))
    position = data.draw(st.integers(0, len(chunks)))
    assert same_state(chunks.state_at(start, position), chunks.reversed().state_at(end, len(chunks) - position))
    assert equal_bits(weights(chunks.reversed().state_at(end, len(chunks))), weights(start))


@given(states(), writes(), st.integers(1, 400), st.sampled_from([InPlaceBank, ShadowBank]))
def test_walking_in_increments_of_any_size_gives_the_weights_of_the_end_state(start, made, budget, policy):
    chunks = ChunkList.build(NAMES, start, made)
    held = []

    def keep(tensors):
        held.append(tensors)
        return tensors

    bank = policy(table(), start, keep)
    sizes = []
    for begin, end, size in increments(chunks, table(), lambda: budget):
        bank.write(Increment.gather(table(), chunks, begin, end))
        sizes.append((end - begin, size))
        with bank.read() as seen:
            assert equal_bits(seen, weights(chunks.state_at(start, end)))
    with bank.read() as seen:
        assert equal_bits(seen, weights(chunks.state_at(start, len(chunks))))
    assert sum(size for _, size in sizes) == chunks.total_bytes(table())
    assert all(size <= budget or count == 1 for count, size in sizes)


@given(states(), writes().filter(bool), st.data())
def test_a_torn_chunk_is_repaired_by_writing_it_whole(start, made, data):
    chunks = ChunkList.build(NAMES, start, made)
    if not len(chunks):
        return
    position = data.draw(st.integers(0, len(chunks) - 1))
    name = NAMES[chunks.layer[position]]
    elements = data.draw(st.integers(0, table().layer(name).width))
    tensors = weights(chunks.state_at(start, position))
    layer, rows, value = chunks.torn(table(), position, elements)
    table().write(tensors, layer, rows, value)
    new = table().rows(name, chunks.row[position : position + 1], chunks.new[position : position + 1])
    assert (value[0, :elements] == new[0, :elements]).all()
    table().write(tensors, layer, rows, new)
    assert equal_bits(tensors, weights(chunks.state_at(start, position + 1)))


def test_rows_are_weights_then_bias_and_removed_rows_are_zero():
    rows = table()
    state = rows.dense()
    state["a"][:2] = [ZERO, 2]
    tensors = rows.tensors(state)
    assert not tensors["a.weight"][0].any()
    assert tensors["a.bias"][0] == 0
    assert (tensors["a.weight"][1].reshape(-1) == rows.pool["a"][0, :-1]).all()
    assert tensors["a.bias"][1] == rows.pool["a"][0, -1]
    assert (
        rows.rows("a", np.array([4], np.int32), np.array([BASE], np.int32))[0, :-1]
        == tensors["a.weight"][4].reshape(-1)
    ).all()


def test_tensors_are_fresh_and_extending_keeps_versions():
    rows = table()
    rows.tensors(rows.dense())["b.weight"][:] = 7
    assert not (rows.tensors(rows.dense())["b.weight"] == 7).any()
    more = rows.extended({"b": np.ones((1, 5), np.float32)})
    assert (more.rows("b", np.array([0], np.int32), np.array([rows.versions("b")], np.int32)) == 1).all()
    assert more.versions("a") == rows.versions("a")


@pytest.mark.parametrize(
    ("field", "value", "found"),
    [
        ("layer", 3, "found layer 3"),
        ("row", 5, "found row 5"),
        ("new", 8, "found version 8"),
        ("old", 7, "from version 7"),
    ],
)
def test_a_list_that_does_not_fit_its_table_is_refused_and_the_chunk_named(field, value, found):
    start = table().dense()
    chunks = ChunkList.build(NAMES, start, [("a", 0, 2), ("a", 4, 3), ("b", 1, ZERO)])
    end = chunks.state_at(start, 3)
    chunks.check(table(), start, end, "file")
    getattr(chunks, field)[1] = value
    with pytest.raises(BundleError, match=found) as error:
        chunks.check(table(), start, end, "file")
    assert "file: chunk 1" in str(error.value)


def test_a_list_of_no_layers_is_empty_or_refused():
    nothing = ChunkList((), *(np.zeros(0, np.int32) for _ in range(4)))
    nothing.check(table(), table().dense(), table().dense(), "file")
    with pytest.raises(BundleError, match="chunk 0: found layer 0"):
        ChunkList((), *(np.zeros(1, np.int32) for _ in range(4))).check(table(), {}, {}, "file")


def complaint(chunks, start, end):
    """What is wrong with a list, found chunk by chunk; None for nothing."""
    state = {name: versions.copy() for name, versions in start.items()}
    for position, (index, row, old, new) in enumerate(
        zip(*(getattr(chunks, name).tolist() for name in ("layer", "row", "old", "new")), strict=True)
    ):
        at = f"file: chunk {position}: found"
        if not 0 <= index < len(NAMES):
            return f"{at} layer {index}, expected 0..{len(NAMES) - 1}"
        layer = table().layer(NAMES[index])
        if not 0 <= row < layer.units:
            return f"{at} row {row}, expected 0..{layer.units - 1}"
        if not 0 <= new < table().versions(layer.name):
            return f"{at} version {new}, expected 0..{table().versions(layer.name) - 1}"
        if state[layer.name][row] != old:
            return (
                f"{at} {layer.name} row {row} written from version {old}, expected from {state[layer.name][row]}, "
                "where this path has brought it"
            )
        state[layer.name][row] = new
    return None if same_state(state, end) else "file: after the last chunk"


spoils = st.lists(
    st.tuples(
        st.sampled_from(["layer", "row", "old", "new"]),
        st.integers(0, 50),
        st.integers(-3, 12) | st.sampled_from([2**31 - 1, -(2**31)]),
    ),
    max_size=3,
)


@given(states(), writes(), spoils)
def test_what_is_wrong_first_is_named_as_a_look_at_one_chunk_after_the_other_would(start, made, spoilt):
    chunks = ChunkList.build(NAMES, start, made)
    end = chunks.state_at(start, len(chunks))
    for field, position, value in spoilt:
        if len(chunks):
            getattr(chunks, field)[position % len(chunks)] = value
    expected = complaint(chunks, start, end)
    if expected is None:
        chunks.check(table(), start, end, "file")
        return
    with pytest.raises(BundleError) as error:
        chunks.check(table(), start, end, "file")
    assert str(error.value).startswith(expected)


@given(states(), writes())
def test_runs_are_as_long_as_rows_of_one_layer_come_once(start, made):
    chunks = ChunkList.build(NAMES, start, made)
    edges, seen = [], set()
    for position in range(len(chunks)):
        layer, row = int(chunks.layer[position]), int(chunks.row[position])
        if position and (layer != chunks.layer[position - 1] or row in seen):
            edges.append(position)
            seen = set()
        seen.add(row)
    runs = [(run.layer, run.rows.tolist(), run.versions.tolist()) for run in chunks.runs(0, len(chunks))]
    places = zip([0, *edges], [*edges, len(chunks)], strict=True)
    assert runs == [
        (NAMES[chunks.layer[begin]], chunks.row[begin:end].tolist(), chunks.new[begin:end].tolist())
        for begin, end in places
        if begin < end
    ]


def test_a_list_that_stops_short_of_its_mode_is_refused():
    start = table().dense()
    chunks = ChunkList.build(NAMES, start, [("a", 0, 2)])
    with pytest.raises(BundleError, match="as in the mode this path should reach"):
        chunks.check(table(), start, start, "file")
