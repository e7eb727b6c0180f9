import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignray.tracking import Event, RunEnd, RunMetrics, RunNote, RunStart

texts = st.text(max_size=8)
names = st.text(min_size=1, max_size=8)
tags = st.dictionaries(names, texts, max_size=3)
values = st.floats(allow_nan=False)
common = {"key": names, "time_ms": st.integers(0, 2**45)}
events = st.one_of(
    st.builds(
        RunStart,
        **common,
        tags=tags,
        params=st.dictionaries(names, st.none() | st.booleans() | st.integers() | values | texts, max_size=4),
        parent=st.none() | names,
        datasets=st.dictionaries(names, st.fixed_dictionaries({"digest": texts, "context": texts}), max_size=2),
    ),
    st.builds(RunMetrics, **common, step=st.integers(1, 10**6), values=st.dictionaries(names, values, max_size=4)),
    st.builds(RunNote, **common, tags=tags, files=st.lists(texts, max_size=3).map(tuple)),
    st.builds(RunEnd, **common, status=st.sampled_from(["FINISHED", "FAILED", "KILLED"]), tags=tags),
)


@given(events)
def test_an_event_survives_the_way_through_a_line(event):
    line = event.to_line()
    assert "\n" not in line
    assert len(line.splitlines()) == 1  # also for what only Python takes for the end of a line
    assert Event.from_line(line) == event


def test_a_metric_that_is_no_number_survives_too():
    line = RunMetrics(key="a-0", step=1, values={"a": math.nan, "b": math.inf, "c": -math.inf}).to_line()
    again = Event.from_line(line)
    assert math.isnan(again.values["a"])
    assert (again.values["b"], again.values["c"]) == (math.inf, -math.inf)


def test_the_time_is_now_and_is_kept():
    import time

    before = int(time.time() * 1000)
    event = RunEnd(key="a", status="FINISHED")
    assert before <= event.time_ms <= int(time.time() * 1000)
    assert Event.from_line(event.to_line()).time_ms == event.time_ms


def test_a_line_says_what_happened():
    line = json.loads(RunMetrics(key="mse-3", step=2, values={"val/corr": 0.5}, time_ms=7).to_line())
    assert line == {"event": "metrics", "key": "mse-3", "step": 2, "values": {"val/corr": 0.5}, "time_ms": 7}


@pytest.mark.parametrize("kind", ["start", "metrics", "note", "end"])
def test_every_kind_has_a_name_of_its_own(kind):
    assert sorted(event.kind for event in (RunStart, RunMetrics, RunNote, RunEnd)).count(kind) == 1
