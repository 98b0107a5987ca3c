"""Persistent weight memory: rows bit for bit, torn ones repaired, foreign files refused."""

import mmap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import JournalError, StateError
from runtime.memory import weight_memory
from runtime.memory.files import Files
from runtime.memory.weight_memory import ALIGNMENT, HEADER_BYTES, MAGIC, PersistentBank, WeightMemory
from runtime.walking.bank import Increment, InPlaceBank
from runtime.walking.chunks import ChunkList
from tests.runtime.disks import BROKEN, FULL, Disk, Killed
from tests.runtime.plans import LAYERS, states, table, writes

TABLE = table()
ID = "ab" * 32


def made(folder, state=None, files=None):
    return WeightMemory.create(folder / "weights.bin", TABLE, ID, state or TABLE.dense(), files or Files())


def same(memory, state):
    expected = TABLE.tensors(state)
    return all(memory.tensors[name].tobytes() == expected[name].tobytes() for name in expected)


@given(state=states())
def test_what_is_made_is_there_when_it_is_opened_again(tmp_path_factory, state):
    folder = tmp_path_factory.mktemp("memory")
    assert same(made(folder, state), state)
    again = WeightMemory(folder / "weights.bin", TABLE, ID, Files())
    assert same(again, state)
    assert again.differing(state) == {}
    again.check(state)


def test_rows_are_made_compared_and_rewritten_in_blocks_of_any_size(tmp_path, monkeypatch):
    state = {name: rows + 2 for name, rows in TABLE.dense().items()}
    whole = made(tmp_path, state).path.read_bytes()
    for block in (1, 100, 200):
        monkeypatch.setattr(weight_memory, "BLOCK_BYTES", block)
        memory = made(tmp_path, state)
        assert memory.path.read_bytes() == whole
        assert {name: len(rows) for name, rows in memory.differing(TABLE.dense()).items()} == {"a": 5, "b": 4, "c": 3}
        memory.rewrite(TABLE.dense(), memory.differing(TABLE.dense()))
        memory.check(TABLE.dense())


def test_the_format_is_as_its_file_says(tmp_path):
    memory = made(tmp_path)
    raw = (tmp_path / "weights.bin").read_bytes()
    assert raw.startswith(MAGIC)
    assert (tmp_path / "weights.bin").stat().st_mode & 0o777 == 0o600
    place = HEADER_BYTES
    for layer in LAYERS:
        for name in (layer.weight, layer.bias):
            if name is not None:
                tensor = memory.tensors[name]
                assert raw[place : place + tensor.nbytes] == tensor.tobytes()
                assert tensor.ctypes.data % ALIGNMENT == 0
                assert tensor.flags.c_contiguous
                place += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
    assert place == len(raw)


@given(start=states(), moves=writes(), cut=st.integers(0, 40))
def test_the_bank_holds_after_each_increment_what_the_bank_in_memory_holds(tmp_path_factory, start, moves, cut):
    chunks = ChunkList.build(TABLE.names, start, moves)
    memory = made(tmp_path_factory.mktemp("bank"), start)
    banks = [PersistentBank(memory, dict), InPlaceBank(TABLE, start, dict)]
    cut = min(cut, len(chunks))
    for begin, end in ((0, cut), (cut, len(chunks))):
        for bank in banks:
            bank.write(Increment.gather(TABLE, chunks, begin, end))
        with banks[0].read() as found, banks[1].read() as expected:
            assert all(found[name].tobytes() == expected[name].tobytes() for name in expected)
    assert banks[0].weight_bytes == banks[1].weight_bytes
    memory.sync()
    assert same(WeightMemory(memory.path, TABLE, ID, Files()), chunks.state_at(start, len(chunks)))


@given(start=states(), moves=writes(), data=st.data())
def test_a_torn_increment_is_repaired_and_no_other_row_is_touched(tmp_path_factory, start, moves, data):
    chunks = ChunkList.build(TABLE.names, start, moves)
    begin = data.draw(st.integers(0, len(chunks)))
    end = data.draw(st.integers(begin, len(chunks)))
    memory = made(tmp_path_factory.mktemp("torn"), chunks.state_at(start, begin))
    if end > begin:  # stops in the middle of a row, after any number of whole ones
        torn = data.draw(st.integers(begin, end - 1))
        memory.write(Increment.gather(TABLE, chunks, begin, torn))
        width = TABLE.layer(chunks.layers[chunks.layer[torn]]).width
        elements = data.draw(st.integers(0, width))
        TABLE.write(memory.tensors, *chunks.torn(TABLE, torn, elements))
    announced = {(chunks.layers[chunks.layer[at]], int(chunks.row[at])) for at in range(begin, end)}
    odd = memory.differing(chunks.state_at(start, begin))
    assert {(name, int(row)) for name, rows in odd.items() for row in rows} <= announced
    memory.repair(chunks, begin, end)
    memory.check(chunks.state_at(start, end))


@given(state=states(), data=st.data())
def test_one_bit_in_any_row_is_found(tmp_path_factory, state, data):
    memory = made(tmp_path_factory.mktemp("bit"), state)
    layer = data.draw(st.sampled_from(LAYERS))
    name = data.draw(st.sampled_from([one for one in (layer.weight, layer.bias) if one]))
    cells = memory.tensors[name].reshape(-1).view(np.uint32)
    place = data.draw(st.integers(0, len(cells) - 1))
    cells[place] ^= np.uint32(1 << data.draw(st.integers(0, 31)))
    row = place // (len(cells) // layer.units)
    assert {one: rows.tolist() for one, rows in memory.differing(state).items()} == {layer.name: [row]}
    with pytest.raises(StateError, match=rf"layer {layer.name}: found row {row} in no version.*Remove this file"):
        memory.check(state)
    assert memory.rewrite(state, memory.differing(state)) == layer.row_bytes
    memory.check(state)


def test_a_negative_zero_and_a_nan_are_not_overlooked(tmp_path):
    state = {name: np.ones_like(rows) for name, rows in TABLE.dense().items()}  # all rows zero
    memory = made(tmp_path, state)
    memory.tensors["a.weight"][2, 0, 0, 0] = -0.0
    memory.tensors["b.weight"][1, 1] = np.nan
    assert {name: rows.tolist() for name, rows in memory.differing(state).items()} == {"a": [2], "b": [1]}


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda raw: b"", "found no header of a weight memory"),
        (lambda raw: bytes(len(raw)), "found no header of a weight memory"),
        (lambda raw: raw[:20] + b"x" + raw[21:], "found another bundle's or layout's header"),
        (lambda raw: raw[:-64], "bytes, expected"),
        (lambda raw: raw + bytes(64), "bytes, expected"),
        (lambda raw: raw[:HEADER_BYTES], "bytes, expected"),
    ],
    ids=["empty", "zeros", "damaged header", "too short", "too long", "header alone"],
)
def test_another_file_is_refused_and_left_alone(tmp_path, damage, found):
    made(tmp_path)
    path = tmp_path / "weights.bin"
    raw = damage(path.read_bytes())
    path.write_bytes(raw)
    with pytest.raises(StateError, match=rf"weights\.bin: .*{found}.*Remove this file to have it made anew"):
        WeightMemory(path, TABLE, ID, Files())
    assert path.read_bytes() == raw


def test_a_memory_of_another_bundle_or_layout_is_refused(tmp_path):
    made(tmp_path)
    with pytest.raises(StateError, match=f"expected one of bundle {'cd' * 8}"):
        WeightMemory(tmp_path / "weights.bin", TABLE, "cd" * 32, Files())
    other = type(TABLE)(LAYERS[:2], TABLE.tensors(TABLE.dense()), {})
    with pytest.raises(StateError, match="another bundle's or layout's header"):
        WeightMemory(tmp_path / "weights.bin", other, ID, Files())
    with pytest.raises(StateError, match="found no weight memory"):
        WeightMemory(tmp_path / "none.bin", TABLE, ID, Files())


@pytest.mark.parametrize("way", ["kill", "half", FULL, BROKEN])
def test_a_memory_is_made_whole_or_not_at_all(tmp_path, way):
    whole = Disk()
    made(tmp_path, files=whole)
    for number in range(1, whole.names.index("rename") + 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises((Killed, StateError)) as caught:
            made(folder, files=Disk(number, way))
        assert not (folder / "weights.bin").exists()
        if caught.type is StateError:
            assert "make room for" in str(caught.value)
            assert list(folder.iterdir()) == []
        assert same(made(folder), TABLE.dense())


class Dull(Files):
    """Memory that cannot be flushed."""

    works = False

    def flush(self, memory, begin, end):
        if not self.works:
            raise OSError(BROKEN, "Input/output error")
        super().flush(memory, begin, end)


def test_memory_that_cannot_be_flushed_is_an_error_until_it_can(tmp_path):
    files = Dull()
    memory = made(tmp_path, files=files)
    chunks = ChunkList.build(TABLE.names, TABLE.dense(), [("a", 1, 1)])
    memory.write(Increment.gather(TABLE, chunks, 0, 1))
    for _ in range(2):
        with pytest.raises(JournalError, match=r"weights\.bin: cannot be written: Input/output error"):
            memory.sync()
    files.works = True
    memory.sync()
    files.works = False
    memory.sync()  # nothing is left to flush


def test_only_what_was_written_is_flushed(tmp_path):
    flushed = []

    class Seen(Files):
        def flush(self, memory, begin, end):
            flushed.append((begin, end))
            super().flush(memory, begin, end)

    memory = made(tmp_path, files=Seen())
    chunks = ChunkList.build(TABLE.names, TABLE.dense(), [("b", 1, 1), ("b", 2, 1)])
    memory.write(Increment.gather(TABLE, chunks, 0, 2))
    memory.sync()
    memory.sync()
    place, row = memory._places["b.weight"], 4 * TABLE.layer("b").columns
    assert flushed == [(place + row, place + 3 * row)]
    assert mmap.PAGESIZE >= ALIGNMENT
