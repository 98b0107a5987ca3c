"""Work of lower priority: done, its result and its errors are those of the work, and nobody else is set back."""

import os
import sys
import threading

import pytest

from runtime.walking.behind import STEPS, behind, may_end

LOWEST = 19


def test_the_result_and_the_errors_are_those_of_the_work():
    assert behind(lambda: 42) == 42

    def fail():
        raise KeyError("a reason")

    with pytest.raises(KeyError, match="a reason"):
        behind(fail)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has threads of different niceness")
def test_only_the_thread_that_works_gives_way():
    def niceness():
        return os.getpriority(os.PRIO_PROCESS, 0), threading.get_ident()

    before, here = niceness()
    during, there = behind(niceness)
    assert there != here
    assert during == min(LOWEST, before + STEPS)
    assert niceness() == (before, here)


def test_without_a_thread_to_spare_it_is_done_all_the_same(monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert behind(threading.get_ident) == threading.get_ident()


def test_what_takes_too_long_is_done_by_the_thread_that_waits_and_ended_on_the_other():
    here, goes_on, ends = threading.get_ident(), threading.Event(), []

    def work():
        if threading.get_ident() == here:
            may_end()  # nobody has given this one up
            goes_on.set()
            return "here"
        try:
            goes_on.wait()
            may_end()
        except BaseException as end:
            ends.append(end)
            raise
        return "there"

    assert behind(work, patience_s=0.01) == "here"
    assert len(ends) == 1
    assert behind(lambda: may_end() or 42) == 42
