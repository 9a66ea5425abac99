"""The file of measurements: continued where the conditions are the same, refused elsewhere; and the load of others."""

import json
import os
import time

import pytest

from benchmarks.common.machine import OtherLoad
from benchmarks.common.records import Records
from dualbinary import InputError


def test_a_run_continues_where_it_was(tmp_path):
    path = tmp_path / "new" / "file.json"
    first = Records(path, {"rounds": 3})
    first.add("a", seconds=[1.0])
    again = Records(path, {"rounds": 3})
    assert "a" in again
    assert "b" not in again
    again.add("b", seconds=[2.0])
    stored = json.loads(path.read_text())
    assert [(record["key"], record["seconds"]) for record in stored["records"]] == [("a", [1.0]), ("b", [2.0])]
    assert list(path.parent.iterdir()) == [path]


def test_other_settings_are_refused_by_name(tmp_path):
    Records(tmp_path / "file.json", {"rounds": 3}).add("a")
    with pytest.raises(InputError, match=r"file\.json: measured with rounds 3, now it is 4"):
        Records(tmp_path / "file.json", {"rounds": 4})


def test_another_build_of_the_library_is_refused(tmp_path):
    path = tmp_path / "file.json"
    Records(path, {}).add("a")
    content = json.loads(path.read_text())
    content["machine"]["library"] = "another"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="measured with library another"):
        Records(path, {})


def test_other_load_is_that_of_all_processes_but_this_one(tmp_path, monkeypatch):
    ticks, stat = os.sysconf("SC_CLK_TCK"), tmp_path / "stat"

    def at(clock, busy, idle, own):
        """Let the clock be at `clock` seconds, of which all cores were busy, and this process was."""
        stat.write_text(f"cpu  {busy * ticks} 0 0 {idle * ticks} 0 0 0 0 0 0\n")
        monkeypatch.setattr(time, "perf_counter", lambda: clock)
        monkeypatch.setattr(os, "times", lambda: os.times_result((own, 0.0, 0.0, 0.0, clock)))

    at(100.0, busy=50, idle=150, own=20.0)
    with OtherLoad(stat) as load:
        at(104.0, busy=55, idle=153, own=22.0)
    assert load.cores == (5 - 2) / 4


def test_without_the_systems_figures_there_is_no_other_load(tmp_path):
    with OtherLoad(tmp_path / "stat") as load:
        pass
    assert load.cores is None
