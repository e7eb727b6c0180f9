import itertools
import time

import numpy as np
import pytest

from alignray.data import open_shards, write_shards
from benchmarks import machine, panels


def test_every_part_prints_its_table(monkeypatch, tmp_path, capsys):
    def in_this_process(statements):
        names, times = {}, [time.monotonic()]
        for statement in statements:
            exec(statement, names)
            times.append(time.monotonic())
        return [after - before for before, after in itertools.pairwise(times)], 1 << 20

    monkeypatch.setattr(panels, "_in_a_fresh_process", in_this_process)
    sizes = ["--rows", "900", "--rows-an-era", "90", "--features", "3", "--eras-per-shard", "4", "--repeats", "2"]
    monkeypatch.setattr("sys.argv", ["panels", *sizes, "--folder", str(tmp_path)])
    panels.main()
    printed = capsys.readouterr().out
    assert "10 eras of 90 rows, 3 int8 features." in printed
    assert "in 3 shards" in printed
    assert len([line for line in printed.splitlines() if line.startswith("| ")]) == (2 + 6) + (2 + 2)
    assert list(tmp_path.iterdir()) == []


def test_a_fresh_process_times_each_statement_and_says_what_it_held():
    seconds, peak = panels._in_a_fresh_process(["import time", "time.sleep(0.05)", "pass", "held = b'1' * 100_000_000"])
    assert peak > 100_000_000
    assert len(seconds) == 4
    assert seconds[1] == pytest.approx(0.05, abs=0.5)
    assert seconds[1] >= 0.05


def test_what_this_process_holds_is_not_counted_as_a_fresh_one_s():
    held = np.ones(200_000_000, np.int8)
    assert machine.resident("VmHWM") > held.nbytes
    assert panels._in_a_fresh_process(["pass"])[1] < 100_000_000


def test_the_numbers_are_a_panel(tmp_path):
    numbers = panels.Numbers(eras=4, rows=20, features=3, seed=0)
    opened = open_shards(write_shards(numbers, tmp_path, eras_per_shard=3))
    assert (opened.num_eras, opened.num_rows, opened.num_features) == (4, 80, 3)
