import json
import resource
import time
import tracemalloc
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from alignray.tracking import Event, RunEnd, RunMetrics, RunStart, Spool
from alignray.tracking import spool as spool_module


def metrics(key, step, value=0.5):
    return RunMetrics(key=key, step=step, values={"val/corr": value}, time_ms=step)


def last_segment(folder):
    return max(folder.glob("events-*.jsonl"))


def drain(spool, limit=1_000):
    """Everything unconfirmed, in requests of at most so many, each confirmed."""
    events = []
    while spool.size:
        some, offset = spool.pending(limit)
        assert 0 < len(some) <= limit
        events += some
        spool.confirm(offset)
    return events


def test_what_was_appended_is_pending_until_it_is_confirmed(tmp_path):
    spool = Spool(tmp_path / "a" / "spool")
    assert (spool.size, spool.pending(9)) == (0, ([], 0))
    events = [RunStart(key="mse-0", tags={"a": "b"}), metrics("mse-0", 1), RunEnd(key="mse-0", status="FINISHED")]
    spool.append(events)
    assert spool.pending(9)[0] == events
    assert spool.pending(9)[0] == events  # asking takes nothing away
    first, offset = spool.pending(2)
    assert first == events[:2]
    spool.confirm(offset)
    assert spool.pending(9)[0] == events[2:]
    spool.confirm(spool.pending(9)[1])
    assert (spool.size, spool.pending(9)[0]) == (0, [])


def test_it_is_on_disk_when_append_returns(tmp_path):
    spool = Spool(tmp_path)
    events = [RunStart(key="mse-0"), metrics("mse-0", 1)]
    spool.append(events)
    assert Spool(tmp_path).pending(9)[0] == events  # without `spool` having been closed


def test_order_is_kept_over_requests_and_openings(tmp_path):
    expected = []
    for opening in range(3):
        spool = Spool(tmp_path)
        events = [metrics(f"mse-{number}", opening + 1) for number in range(5)]
        spool.append(events[:2])
        spool.append(events[2:])
        expected += events
        if opening == 1:
            assert drain(spool, limit=3) == expected
            expected = []
    assert drain(Spool(tmp_path), limit=2) == expected


def test_a_step_is_taken_once_however_often_a_trial_repeats_it(tmp_path):
    spool = Spool(tmp_path)
    spool.append([metrics("mse-0", step) for step in (1, 2, 3)])
    spool.append([metrics("mse-0", step, 0.9) for step in (2, 3, 4)] + [metrics("mse-1", 1)])
    drain(spool)
    spool = Spool(tmp_path)  # and so after everything was confirmed and the sweep resumed
    spool.append([metrics("mse-0", step, 0.9) for step in (3, 4, 5)])
    assert drain(spool) == [metrics("mse-0", 5, 0.9)]


def test_a_run_may_begin_and_end_again(tmp_path):
    spool = Spool(tmp_path)
    events = [RunStart(key="mse-0"), RunEnd(key="mse-0", status="KILLED")] * 2
    spool.append(events)
    assert drain(spool) == events


def test_an_end_that_is_told_again_is_taken_once(tmp_path):
    spool = Spool(tmp_path)
    end = RunEnd(key="mse-0", status="FINISHED", tags={"alignray.state": "pruned"}, time_ms=1)
    spool.append([RunStart(key="mse-0"), end, RunEnd(key="mse-0", status="FINISHED", time_ms=2)])
    drain(spool)
    spool = Spool(tmp_path)  # a resumed sweep tells of every end again
    other = RunEnd(key="mse-1", status="FAILED")
    spool.append([RunEnd(key="mse-0", status="FINISHED", time_ms=3), other])
    assert drain(spool) == [other]


@pytest.mark.parametrize("content", ["", "7 half", "99999999", "7"])
def test_an_offset_that_a_crash_spoilt_costs_no_event(tmp_path, content):
    """MLflow takes what it is told twice for once, so in doubt everything is told again."""
    spool = Spool(tmp_path)
    events = [metrics("mse-0", step) for step in (1, 2)]
    spool.append(events)
    drain(spool)
    (tmp_path / "confirmed").write_text(content)
    spool = Spool(tmp_path)
    spool.append([metrics("mse-0", 3)])
    assert drain(spool)[-1] == metrics("mse-0", 3)
    assert spool.size == 0


def test_a_full_disk_leaves_no_half_line(tmp_path):
    spool = Spool(tmp_path)
    spool.append([metrics("mse-0", 1)])
    size = last_segment(tmp_path).stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 150, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            spool.append([metrics("mse-0", step) for step in range(2, 9)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    spool.append([metrics("mse-0", 2)])  # it was not taken, so it may be told again
    assert drain(spool) == [metrics("mse-0", 1), metrics("mse-0", 2)]


def test_a_full_disk_does_not_keep_what_is_confirmed_from_being_freed(tmp_path, monkeypatch):
    monkeypatch.setattr(spool_module, "_SEGMENT_BYTES", 1)
    spool = Spool(tmp_path)
    for step in (1, 2, 3):
        spool.append([metrics("mse-0", step)])
    offset = spool.pending(1)[1]
    spool.confirm(offset)  # from now on it is written over
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        spool.confirm(spool.pending(1)[1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert drain(Spool(tmp_path)) == [metrics("mse-0", 3)]


def test_confirmed_segments_are_removed_and_what_was_said_in_them_stays_known(tmp_path, monkeypatch):
    monkeypatch.setattr(spool_module, "_SEGMENT_BYTES", 500)
    spool = Spool(tmp_path)
    spool.append([metrics("mse-1", 7), RunEnd(key="mse-1", status="FINISHED")])
    most = 0
    for step in range(1, 201):
        spool.append([metrics("mse-0", step)])
        if step % 10 == 0:
            assert drain(spool)[-1] == metrics("mse-0", step)
        most = max(most, sum(path.stat().st_size for path in tmp_path.iterdir()))
    assert most < 3_500
    spool = Spool(tmp_path)
    again = [metrics("mse-0", 200), metrics("mse-1", 7), RunEnd(key="mse-1", status="FINISHED")]
    spool.append([*again, metrics("mse-1", 8)])
    assert drain(spool) == [metrics("mse-1", 8)]


def test_a_long_spool_is_opened_by_its_last_segment(tmp_path):
    spool = Spool(tmp_path)
    some = 2_000
    for begin in range(0, 200_000, some):
        spool.append([metrics(f"mse-{number % 50}", begin + number + 1) for number in range(some)])
    size = spool.size
    assert size > 15e6
    tracemalloc.start()
    started = time.process_time()
    spool = Spool(tmp_path)
    spool.append([metrics("mse-7", 3)])  # known, though it was told long ago
    events, _ = spool.pending(1_000)
    seconds, (_, peak) = time.process_time() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (spool.size, len(events), events[0]) == (size, 1_000, metrics("mse-0", 1))
    assert seconds < 10
    assert peak < 60e6


def test_a_segment_that_a_crash_left_half_removed_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(spool_module, "_SEGMENT_BYTES", 1)
    spool = Spool(tmp_path)
    spool.append([metrics("mse-0", 1)])
    spool.append([metrics("mse-0", 2)])
    min(tmp_path.glob("state-*")).unlink()  # its events were to follow
    assert drain(Spool(tmp_path)) == [metrics("mse-0", 2)]
    assert len(list(tmp_path.glob("events-*"))) == 1


def test_what_is_set_aside_is_kept_once_with_its_reason(tmp_path):
    spool = Spool(tmp_path)
    for _ in range(2):
        spool.set_aside(metrics("mse-0", 1), "RestException: no")
    (line,) = (tmp_path / "refused.jsonl").read_text().splitlines()
    told = json.loads(line)
    assert told.pop("refused") == "RestException: no"
    assert Event.from_line(json.dumps(told)) == metrics("mse-0", 1)


class SpoolMachine(RuleBasedStateMachine):
    """Against a plain list: appends, confirmations, crashes that cut the last line, new openings."""

    @initialize(segment_bytes=st.sampled_from([1, 300, 10_000]))
    def open(self, segment_bytes):
        self.home = TemporaryDirectory(prefix="spool-")
        self.folder = Path(self.home.name)
        self.limit = spool_module._SEGMENT_BYTES
        spool_module._SEGMENT_BYTES = segment_bytes
        self.spool = Spool(self.folder)
        self.unconfirmed, self.confirmed = [], []

    def teardown(self):
        if hasattr(self, "home"):
            self.home.cleanup()
            spool_module._SEGMENT_BYTES = self.limit

    def is_new(self, event):
        before = [known for known in self.confirmed + self.unconfirmed if known.key == event.key]
        if isinstance(event, RunMetrics):
            return event.step > max((known.step for known in before if isinstance(known, RunMetrics)), default=0)
        turns = [known for known in before if not isinstance(known, RunMetrics)]
        return not (isinstance(event, RunEnd) and turns and isinstance(turns[-1], RunEnd))

    @rule(
        told=st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["start", 1, 2, 3, 4, 5, "end"])), max_size=6),
        name=st.text(min_size=1),
    )
    def append(self, told, name):
        events = []
        for key, what in told:
            if what == "start":
                events.append(RunStart(key=key, tags={name: "ü\u2028\x85"}))
            elif what == "end":
                events.append(RunEnd(key=key, status="FINISHED"))
            else:
                events.append(metrics(key, what))
        self.spool.append(events)
        for event in events:
            if self.is_new(event):
                self.unconfirmed.append(event)

    def pending(self, limit):
        """What is pending, which ends where a segment does."""
        events, offset = self.spool.pending(limit)
        assert bool(events) == bool(self.unconfirmed)
        assert events == self.unconfirmed[: len(events)]
        return events, offset

    @rule(limit=st.integers(1, 5))
    def write(self, limit):
        events, offset = self.pending(limit)
        self.spool.confirm(offset)
        self.confirmed += events
        del self.unconfirmed[: len(events)]

    @rule(limit=st.integers(1, 5))
    def write_without_saying_so(self, limit):
        self.pending(limit)

    @rule()
    def reopen(self):
        self.spool = Spool(self.folder)

    @rule(cut=st.integers(1, 10_000))
    def crash_in_a_write(self, cut):
        if not self.unconfirmed:
            return
        file = last_segment(self.folder)
        content = file.read_bytes()
        if not content:  # the segment before it was whole when this one began
            return
        last = content.rfind(b"\n", 0, -1) + 1
        file.write_bytes(content[: -min(cut, len(content) - last)])
        self.unconfirmed.pop()
        self.spool = Spool(self.folder)

    @invariant()
    def nothing_is_lost_or_doubled(self):
        if hasattr(self, "spool"):
            self.pending(10_000)
            assert bool(self.spool.size) == bool(self.unconfirmed)


SpoolMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=20, deadline=None, derandomize=True)
TestSpoolMachine = SpoolMachine.TestCase
