"""The journal: what is written is read, what is torn is cut, what is damaged is an error, a full disk is survived."""

import zlib

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import JournalError, StateError
from runtime.memory.files import Files
from runtime.memory.journal import (
    LARGEST_RECORD,
    LIMIT_BYTES,
    MAGIC,
    NAME,
    RESERVE,
    RESERVE_BYTES,
    Counters,
    Journal,
    Standing,
    WalkEntry,
    frame,
    load,
)
from runtime.memory.recorder import Recorder
from runtime.memory.state_directory import StateDirectory
from runtime.walking.chunks import ChunkList
from runtime.walking.retarget import Way
from tests.runtime.disks import BROKEN, FULL, Crowded, Disk, Forgetful, Killed

WALK = WalkEntry(target="C2", at="C1", legs=(("C1", "C2"),), start=0, position=3, intended=5, phase="walking")
STANDING = Standing(
    bundle="ab" * 32, release=7, mode="C1", walk=WALK, persistent=True,
    counters=Counters(transitions=2, increments=9, bytes_written=4096, row_writes={"conv1": 3, "conv2": 12}),
)  # fmt: skip


def numbered(number):
    """A record that no other one equals."""
    return msgspec.structs.replace(STANDING, release=number)


def written(folder, count, files=None):
    journal = Journal(folder, files or Files())
    for number in range(count):
        journal.write(numbered(number))
    journal.close()
    return folder / NAME


def test_without_a_file_nothing_is_remembered(tmp_path):
    journal = Journal(tmp_path, Files())
    assert (journal.standing, journal.release) == (None, 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", [1, 2, 5, 400])
def test_the_last_record_is_the_truth(tmp_path, count):
    written(tmp_path, count)
    journal = Journal(tmp_path, Files())
    assert journal.standing == numbered(count - 1)
    assert journal.release == count - 1


def test_the_format_is_as_its_file_says(tmp_path):
    """The golden bytes: a version that reads them otherwise must say so."""
    before = (
        b'{"bundle":"' + b"ab" * 32 + b'","release":7,"mode":"C1","walk":{"target":"C2","at":"C1","legs":[["C1","C2"]],'
        b'"start":0,"position":3,"intended":5,"phase":"walking"},"persistent":true,"restoring":false,"counters":'
        b'{"transitions":2,"increments":9,"bytes_written":4096,"row_writes":{"conv1":3,"conv2":12}'
    )
    text = before + b',"retries":0,"cell_writes":0}}'
    size = len(text).to_bytes(4, "little")
    Journal(tmp_path, Files()).write(STANDING)
    assert (tmp_path / NAME).read_bytes() == MAGIC + size + zlib.crc32(size + text).to_bytes(4, "little") + text
    # Records of before retries and wear were counted.
    text = before + b"}}"
    size = len(text).to_bytes(4, "little")
    (tmp_path / NAME).write_bytes(MAGIC + size + zlib.crc32(size + text).to_bytes(4, "little") + text)
    assert Journal(tmp_path, Files()).standing == STANDING


def test_the_file_stays_small_and_nothing_else_is_left(tmp_path):
    path = written(tmp_path, 1000)
    assert path.stat().st_size <= LIMIT_BYTES
    assert [one.name for one in tmp_path.iterdir()] == [NAME]
    assert load(tmp_path, Files()) == numbered(999)


def test_a_start_begins_a_new_file_so_that_no_torn_tail_is_written_behind(tmp_path):
    path = written(tmp_path, 3)
    journal = Journal(tmp_path, Files())
    journal.write(numbered(10))
    assert path.read_bytes() == MAGIC + frame(numbered(10))


@given(cut=st.integers(0, 10**6), junk=st.binary(max_size=64))
def test_a_torn_tail_is_cut_wherever_it_tore(tmp_path_factory, cut, junk):
    folder = tmp_path_factory.mktemp("torn")
    path = written(folder, 3)
    whole, last = path.read_bytes(), frame(numbered(2))
    path.write_bytes(whole[: len(whole) - len(last) + cut % len(last)] + junk)
    assert load(folder, Files()) == numbered(1)


def test_a_tail_of_zeros_is_a_torn_one(tmp_path):
    path = written(tmp_path, 2)
    path.write_bytes(path.read_bytes() + bytes(4096))
    assert load(tmp_path, Files()) == numbered(1)


@given(data=st.data())
def test_a_damaged_record_before_a_whole_one_is_an_error_that_names_file_and_place(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damaged")
    path = written(folder, 3)
    raw = bytearray(path.read_bytes())
    first, second = (len(frame(numbered(number))) for number in (0, 1))
    at = data.draw(st.integers(len(MAGIC), len(MAGIC) + first + second - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(raw)
    offset = len(MAGIC) if at < len(MAGIC) + first else len(MAGIC) + first
    with pytest.raises(
        StateError, match=rf"{NAME}: at byte {offset}: found a damaged record before a whole one at \d+"
    ):
        load(folder, Files())
    assert path.read_bytes() == raw, "nothing was changed"


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (b"", "at byte 0: found b''"),
        (b"GSJRNL9\n" + frame(STANDING), r"at byte 0: found b'GSJRNL9\\n', expected b'GSJRNL1\\n'"),
        (MAGIC, "at byte 8: found no whole record"),
        (MAGIC + frame(STANDING)[:-1], "at byte 8: found no whole record"),
        (bytes(100_000), "at byte 0: found b'"),
        (MAGIC + (2**32 - 1).to_bytes(4, "little") * 40, "at byte 8: found no whole record"),
    ],
    ids=["empty", "another version", "no record", "one torn record", "zeros", "huge lengths"],
)
def test_what_is_no_journal_is_refused_with_advice(tmp_path, raw, found):
    (tmp_path / NAME).write_bytes(raw)
    with pytest.raises(StateError, match=rf"{found}.*To start anew in the dense mode, remove"):
        load(tmp_path, Files())


@pytest.mark.parametrize(
    "text", [b"[]", b"{}", b'{"a":', b"\xff", b"[" * 60_000, msgspec.json.encode(STANDING)[:-1] + b',"more":1}']
)
def test_a_whole_record_of_something_else_is_refused(tmp_path, text):
    size = len(text).to_bytes(4, "little")
    (tmp_path / NAME).write_bytes(MAGIC + size + zlib.crc32(size + text).to_bytes(4, "little") + text)
    with pytest.raises(StateError, match="at byte 8: found a record that another version wrote"):
        load(tmp_path, Files())


def test_no_link_is_followed(tmp_path):
    (tmp_path / "elsewhere").write_bytes(MAGIC + frame(STANDING))
    (tmp_path / NAME).symlink_to("elsewhere")
    with pytest.raises(StateError, match="journal: cannot be read"):
        load(tmp_path, Files())


def test_a_record_that_nobody_could_read_again_is_not_written(tmp_path):
    journal = Journal(tmp_path, Files())
    journal.write(STANDING)
    counters = Counters(row_writes={str(number) * 9: 1 for number in range(10_000)})
    with pytest.raises(JournalError, match=f"expected at most {LARGEST_RECORD}"):
        journal.write(msgspec.structs.replace(STANDING, counters=counters))
    assert load(tmp_path, Files()) == STANDING


def until_disturbed(folder, disk):
    """Write records until one meets the disk's fault; number of that one, and whether it was written nevertheless."""
    journal = None
    for number in range(200):
        try:
            journal = journal or Journal(folder, disk)
            journal.write(numbered(number))
        except (JournalError, StateError, Killed):
            return number, False
        if disk.at:
            return number, True
    return 200, True


@pytest.mark.parametrize("way", ["kill", "half", BROKEN, FULL])
def test_whatever_interrupts_a_write_one_of_the_two_records_holds_and_the_next_write_succeeds(tmp_path, way):
    whole = Disk()
    (tmp_path / "whole").mkdir()
    written(tmp_path / "whole", 200, whole)
    for at in range(1, whole.count + 1, 7):
        folder = tmp_path / str(at)
        folder.mkdir()
        number, done = until_disturbed(folder, Disk(at, way))
        before = numbered(number - 1) if number else None
        assert load(folder, Files()) in ([numbered(number)] if done else [before, numbered(number)])
        journal = Journal(folder, Files())
        journal.write(numbered(1000))
        assert load(folder, Files()) == numbered(1000)


@pytest.mark.parametrize("error", [BROKEN, FULL])
def test_an_error_names_the_journal_and_what_to_do(tmp_path, error):
    journal = Journal(tmp_path, Disk(3, error))
    with pytest.raises(JournalError, match=rf"{tmp_path}/{NAME}: cannot be written: .*; make room or replace the disk"):
        journal.write(STANDING)
    journal.write(STANDING)
    assert load(tmp_path, Files()) == journal.standing == STANDING


@given(seed=st.integers(0, 10**6), number=st.integers(1, 60))
def test_without_power_what_was_written_before_is_there(tmp_path_factory, seed, number):
    folder = tmp_path_factory.mktemp("power")
    disk, last = Forgetful(folder, number, seed), None
    try:
        journal = Journal(folder, disk)
        for one in range(30):
            journal.write(numbered(one))
            last = one
    except Killed:
        disk.cut()
        found = load(folder, Files())
        following = 0 if last is None else last + 1
        assert found in (None if last is None else numbered(last), numbered(following))


def test_the_reserve_lets_a_walk_end_on_a_full_disk_and_the_next_one_waits_for_room(tmp_path):
    disk = Crowded()
    journal = Journal(tmp_path, disk)
    journal.reserve()
    assert (tmp_path / RESERVE).stat().st_size == RESERVE_BYTES
    journal.write(numbered(0))
    disk.full = True
    for number in range(1, 100):
        journal.write(numbered(number))
    assert not (tmp_path / RESERVE).exists()
    assert load(tmp_path, Files()) == numbered(99)
    disk.room = 0
    with pytest.raises(JournalError, match="No space left on device; make room"):
        journal.reserve()
    assert not (tmp_path / RESERVE).exists()
    disk.full = False
    journal.reserve()
    journal.reserve()
    assert (tmp_path / RESERVE).stat().st_size == RESERVE_BYTES


def test_a_reserve_in_part_is_made_whole(tmp_path):
    (tmp_path / RESERVE).write_bytes(b"r")
    Journal(tmp_path, Files()).reserve()
    assert (tmp_path / RESERVE).stat().st_size == RESERVE_BYTES


def walk_of(length):
    """A way that writes each row of one layer once."""
    columns = [[0] * length, list(range(length)), [0] * length, [1] * length]
    return ChunkList(("layer",), *(np.array(column, np.int32) for column in columns))


def test_checkpoints_are_no_more_than_flash_can_bear(tmp_path):
    now_s, disk = [0.0], Disk()
    recorder = Recorder(numbered(1), Journal(tmp_path, disk), clock=lambda: now_s[0])
    chunks = walk_of(6000)
    recorder.begun("C1", "C2", Way("C1", (), 0, chunks), "walking")
    before = disk.names.count("sync")
    for at in range(6000):  # ten minutes, ten increments a second
        now_s[0] += 0.1
        recorder.wrote(chunks, at, at + 1, 40)
    assert 118 <= disk.names.count("sync") - before <= 120
    assert recorder.standing.counters.increments == 9 + 6000
    assert recorder.standing.counters.row_writes["layer"] == 6000
    lost = recorder.standing.walk.position - load(tmp_path, Files()).walk.position
    assert 0 <= lost <= 50


def test_a_checkpoint_that_fails_is_no_trouble_and_is_not_tried_again_at_once(tmp_path):
    now_s, disk = [0.0], Disk()
    recorder = Recorder(numbered(1), Journal(tmp_path, disk), clock=lambda: now_s[0])
    chunks = walk_of(10)
    recorder.begun("C1", "C2", Way("C1", (), 0, chunks), "walking")
    told = load(tmp_path, Files())
    disk.number, disk.way, disk.times = disk.count + 1, BROKEN, 10**6
    now_s[0] += 60
    recorder.wrote(chunks, 0, 1, 40)
    assert "Input/output error" in recorder.trouble
    count = disk.count
    recorder.wrote(chunks, 1, 2, 40)
    assert disk.count == count
    assert load(tmp_path, Files()) == told
    assert recorder.standing.walk.position == 2
    disk.number = 0
    now_s[0] += 60
    recorder.wrote(chunks, 2, 3, 40)
    assert (recorder.trouble, load(tmp_path, Files()).walk.position) == ("", 3)


def test_the_release_only_rises(tmp_path):
    recorder = Recorder(numbered(5), Journal(tmp_path, Files()))
    for release, expected in ((3, 5), (6, 6), (None, 6), (2, 6)):
        recorder.rested("C2", release)
        assert (load(tmp_path, Files()).release, recorder.standing.release) == (expected, expected)
    recorder.adopt(4)
    assert load(tmp_path, Files()).release == 6
    recorder.adopt(9)
    assert load(tmp_path, Files()).release == 9


def test_a_state_directory_belongs_to_one_process(tmp_path):
    first = StateDirectory(tmp_path / "deep" / "state")
    assert (tmp_path / "deep" / "state").stat().st_mode & 0o777 == 0o700
    with pytest.raises(StateError, match="in use by another process"):
        StateDirectory(tmp_path / "deep" / "state")
    first.close()
    first.close()
    StateDirectory(tmp_path / "deep" / "state").close()


def test_a_state_directory_that_cannot_be_made_or_is_damaged_is_refused_and_not_kept(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StateError, match="file: cannot be used: File exists"):
        StateDirectory(tmp_path / "file")
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / NAME).write_bytes(b"")
    for _ in range(2):
        with pytest.raises(StateError, match="at byte 0"):
            StateDirectory(tmp_path / "state")


@pytest.mark.parametrize("name", ["write", "sync"])
def test_a_file_that_a_write_failed_on_is_never_written_to_again(tmp_path, name):
    """What the system has of it may not be what the disk has: a later flush that succeeds says nothing of it."""
    disk = Disk()
    journal = Journal(tmp_path, disk)
    for number in range(2):
        journal.write(numbered(number))
    before = (tmp_path / NAME).stat().st_ino
    disk.number, disk.way = disk.count + ["write", "sync"].index(name) + 1, BROKEN
    with pytest.raises(JournalError):
        journal.write(numbered(2))
    assert disk.at == name
    journal.write(numbered(3))
    assert (tmp_path / NAME).stat().st_ino != before
    assert (tmp_path / NAME).read_bytes() == MAGIC + frame(numbered(3))
