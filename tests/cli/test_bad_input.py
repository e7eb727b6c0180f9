"""Mistakes at the command line: one line that says what is wrong, exit status 2, nothing half-written."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from alignray.cli.main import status


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def frame(**columns: object) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    base = {"era": np.repeat([f"{era:04d}" for era in range(4)], 5), "target": rng.random(20)}
    return pd.DataFrame({**base, "feature_a": rng.integers(0, 5, 20, dtype=np.int8), **columns})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "nosuch"], ["'nosuch'", "quickstart", ".py file"]),
        (["run", "nosuch.py"], ["'nosuch.py'", "no such file"]),
        (["run", "quickstart", "--set", "trial.nosuch=1"], ["trial.nosuch", "no such field", "objective"]),
        (["run", "quickstart", "--set", "trial.model.width.x=1"], ["trial.model.width.x", "single value"]),
        (["run", "quickstart", "--set", "trial.members=many"], ["trial.members", "an integer", "'many'"]),
        (["run", "quickstart", "--set", "trial.members=0"], ["members", "at least 1", "0"]),
        (["run", "quickstart", "--set", "trial.training.epochs=2.5"], ["trial.training.epochs", "an integer", "2.5"]),
        (["run", "quickstart", "--set", "trial.cost.soft_l1.strength=-1"], ["soft_l1", "at least 0", "-1"]),
        (["run", "quickstart", "--set", "trial.cost.quadratic.strength=0"], ["strong convexity", "Quadratic"]),
        (["run", "quickstart", "--set", "trial.objective=foo"], ["objective", "aligned", "'foo'"]),
        (["run", "quickstart", "--set", 'arms=["foo"]'], ["arms", "aligned", "'foo'"]),
        (["run", "quickstart", "--set", "trial.scoring.metric=calibration"], ["scoring.metric", "'calibration'"]),
        (["run", "quickstart", "--set", "noequals"], ["--set", "KEY=VALUE", "'noequals'"]),
        (["run", "quickstart", "--set", "holdout.eras=5000"], ["holdout=5000", "1669"]),
        (["run", "quickstart", "--set", "data.source=nosuch"], ["data.source", "sp500", "'nosuch'"]),
        (["run", "quickstart", "--set", "data.source=missing.parquet"], ["missing.parquet", "no such file"]),
        (["run", "quickstart", "--set", "data.source=runs"], ["runs: a folder", "manifest.json", "features.json"]),
        (["run", "quickstart", "--set", "data.feature_set=all"], ["data.feature_set", "'small'", "sp500", "'all'"]),
        (["run", "quickstart", "--set", "trial.split.scheme=random"], ["split.scheme", "rolling", "'random'"]),
        (["run", "quickstart", "--set", "trial.split.window=5"], ["split.window", "rolling", "5"]),
        (
            ["run", "quickstart", "--set", "trial.split.folds=1", "--set", "trial.split.scheme=blocked"],
            ["folds must be at least 2, got 1"],
        ),
        (["run", "quickstart", "--set", "trial.model.family=nosuch:Net"], ["model.family", "imported", "'nosuch:Net'"]),
        (["run", "quickstart", "--storage", "file/below"], ["storage", "cannot be written", "--storage"]),
        (
            ["run", "quickstart", "--storage", "s3://bucket/runs"],
            ["storage", "'s3://bucket/runs'", "a folder", "mount", "data.source"],
        ),
        (["resume", "first", "--storage", "gs://bucket/runs"], ["storage", "'gs://bucket/runs'", "a folder"]),
        (["compare", "first", "--storage", "file:///runs"], ["storage", "'file:///runs'", "a folder"]),
        (["run", "quickstart", "--name", "../x"], ["name", "'../x'"]),
        (["run", "quickstart", "--resume"], ["--resume", "--name", "none"]),
        (["run", "quickstart", "--name", "taken"], ["'taken'", "--name", "alignray resume taken"]),
        (["run", "quickstart", "--tracking-uri", "./mlruns"], ["tracking URI", "sqlite", "./mlruns"]),
        (["run", "quickstart", "--address", "127.0.0.1:1"], ["no Ray cluster", "127.0.0.1:1", "ray start"]),
        (["run", "quickstart", "--trials", "0"], ["--trials", "0"]),
        (["run", "quickstart", "--time-budget", "5"], ["--time-budget", "2h", "'5'"]),
        (["run", "quickstart", "--gpu-hours", "1"], ["gpu_hours", "gpus_per_trial"]),
        (["run", "quickstart", "--set", "resources.gpus_per_trial=99"], ["gpus_per_trial", "needs 99", "--address"]),
        (["run"], ["SWEEP"]),
        (["frobnicate"], ["frobnicate"]),
        (["compare", "nosuch"], ["'nosuch'", "taken"]),
        (["resume", "nosuch"], ["'nosuch'", "taken"]),
        (["ui", "nosuch"], ["'nosuch'", "taken"]),
        (["ui"], ["mlflow.db", "--tracking-uri"]),
        (["template", "show", "nosuch"], ["'nosuch'", "quickstart"]),
        (["template", "new", "new.py", "--from", "nosuch"], ["'nosuch'", "quickstart", "tb200"]),
        (["template", "new", "file", "--from", "tb200"], ["file", "Python file"]),
        (["template", "new", "mine.py"], ["--from"]),
        (["template", "new", "no/such/folder/mine.py", "--from", "tb200"], ["mine.py", "cannot be written"]),
        (["template", "from-run", "abc", "mine.py"], ["mlflow.db", "--tracking-uri"]),
        (["doctor", "nosuch"], ["'nosuch'", "taken"]),
        (["run", "quickstart", "--set", "data.digest=abc"], ["data.digest", "expected abc", "sp500"]),
        (["run", "quickstart", "--set", "data.source=synthetic", "--set", "data.bins=5"], ["data.bins", "synthetic"]),
        (["data", "check", "missing.parquet"], ["missing.parquet", "no such file"]),
        (["data", "synthetic", "file"], ["file: a file", "expected a folder"]),
        (["data", "synthetic", "new", "--rows", "1"], ["rows must be at least 2, got 1"]),
        (["data", "numerai", "file"], ["file: a file", "expected a folder"]),
    ],
    ids=lambda value: " ".join(value) if value and value[0] in ("run", "ui", "compare", "resume") else None,
)
def test_one_line_and_status_2(
    arguments: list[str], said: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "runs" / "taken").mkdir(parents=True)
    (tmp_path / "runs" / "taken" / "manifest.json").write_text("{}")
    before = sorted(tmp_path.rglob("*"))

    assert status(arguments) == 2

    complaint = capsys.readouterr().err.splitlines()
    assert len(complaint) == 1, complaint
    assert complaint[0].startswith("alignray: ")
    for part in said:
        assert part in complaint[0]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("drop", "add", "said"),
    [
        ("era", {}, ["'era'", "target"]),
        ("target", {}, ["'target'", "era"]),
        ("feature_a", {}, ["feature_*"]),
        (None, {"feature_b": ["x"] * 20}, ["feature_b"]),
    ],
)
def test_data_that_lacks_something(
    drop: str | None,
    add: dict[str, object],
    said: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = frame(**add)
    (data if drop is None else data.drop(columns=drop)).to_parquet(tmp_path / "panel.parquet")
    for arguments in (["run", "quickstart", "--set", "data.source=panel.parquet"], ["data", "check", "panel.parquet"]):
        assert status(arguments) == 2
        (complaint,) = capsys.readouterr().err.splitlines()
        for part in ["panel.parquet", *said]:
            assert part in complaint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["panel.parquet"]


@pytest.mark.parametrize(
    ("add", "said"),
    [
        ({"feature_a": np.full(20, 7, np.int8)}, ["feature_a", "7", "codes 0 to 4", "bin it"]),
        ({"target": np.full(20, np.inf)}, ["target", "inf", "leave it missing"]),
    ],
)
def test_data_that_holds_what_cannot_be_used(
    add: dict[str, object], said: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame(**add).to_parquet(tmp_path / "panel.parquet")
    assert status(["run", "quickstart", "--set", "data.source=panel.parquet"]) == 2
    (complaint,) = capsys.readouterr().err.splitlines()
    assert status(["data", "check", "panel.parquet"]) == 1
    captured = capsys.readouterr()
    assert captured.err == "alignray: panel.parquet: loading refuses it; columns that must be mended: 1\n"
    (line,) = (line for line in captured.out.splitlines() if line.startswith("  refused"))
    for part in said:
        assert part in complaint
        assert part in line


def test_a_file_that_is_no_parquet_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame().to_parquet(tmp_path / "cut.parquet")
    whole = (tmp_path / "cut.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    assert status(["run", "quickstart", "--set", "data.source=cut.parquet"]) == 2
    (complaint,) = capsys.readouterr().err.splitlines()
    assert "cut.parquet" in complaint


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("x = 1", "def sweep()"),
        ("def sweep():\n    return 3", "SweepConfig"),
        ("import nosuchmodule", "nosuchmodule"),
        ("def sweep(:", "SyntaxError"),
    ],
)
def test_a_sweep_file_that_is_none(code: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(code)
    assert status(["run", "mine.py"]) == 2
    (complaint,) = capsys.readouterr().err.splitlines()
    assert "mine.py" in complaint
    assert said in complaint


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert status(["--debug", "run", "quickstart", "--set", "trial.nosuch=1"]) == 2
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.splitlines()[-1].startswith("alignray: trial.nosuch")


def test_dry_run_plans_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(["run", "quickstart", "--dry-run", "--trials", "3", "--set", "trial.training.epochs=7"]) == 0
    said = capsys.readouterr().out
    assert "3 an arm, 12 together" in said
    assert "7 epochs" in said
    assert "cost.soft_l1.strength: 0.005 … 0.1, log" in said
    (memory, epoch, cost, elapsed, measured) = said.splitlines()[-5:]
    assert re.fullmatch(r"memory    0\.\d+ GB a trial at most, and the panel once for all of them", memory)
    seconds = r"[\d.e-]+ s, "
    arms = f"aligned {seconds}misaligned {seconds}fenchel_young {seconds}mse {seconds}"
    assert re.fullmatch(f"epoch     {arms}a trial that runs alone", epoch)
    assert re.fullmatch(r"cost      about \S+ core-hours if all 12 trials and 4 final models go through 7 .*", cost)
    assert re.fullmatch(r"time      about \S+ (s|min) on this machine, \d+ trials at once", elapsed)
    assert measured.startswith("measured  on ")
    assert list(tmp_path.iterdir()) == []


def test_smoke_shrinks_what_was_not_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    monkeypatch.setattr("alignray.launch.run_sweep", lambda config, **_: found.append(config))
    monkeypatch.setattr("alignray.cli.show.print_result", lambda _: None)
    assert status(["run", "tb200", "--smoke", "--set", "search.trials=5"]) == 0
    assert status(["run", "tb200", "--smoke", "--set", "data.source=own.parquet"]) == 0
    made_up, own = found
    assert (made_up.search.trials, made_up.holdout.eras, made_up.data.synthetic.eras) == (5, 8, 48)
    assert (own.search.trials, own.holdout.eras) == (2, 40), "the eras that its sweep would seal stay sealed"


def test_dry_run_for_a_cluster_whose_gpus_are_elsewhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    on_a_gpu = ["run", "quickstart", "--dry-run", "--set", "resources.gpus_per_trial=0.5"]
    assert status(on_a_gpu) == 2
    (complaint,) = capsys.readouterr().err.splitlines()
    assert "a trial needs 0.5 GPUs, and this machine has 0" in complaint
    assert status([*on_a_gpu, "--address", "auto"]) == 0
    plan = capsys.readouterr().out.splitlines()
    assert "1 CPU, 0.5 GPU each" in plan[3]
    assert plan[-1].startswith("measured  not, on this machine: ")


def test_help_of_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ([], ["run"], ["resume"], ["compare"], ["ui"], ["template"], ["data"], ["doctor"]):
        assert status([*command, "--help"]) == 0
        assert "Usage: alignray" in capsys.readouterr().out


def test_template_show_is_the_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    import json

    from alignray.configuration import from_plain, to_plain
    from alignray.launch import find_sweep
    from alignray.sweep import SweepConfig

    assert status(["template", "show", "quickstart"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert to_plain(from_plain(SweepConfig, plain)) == to_plain(find_sweep("quickstart"))


def test_data_check_says_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from alignray.data import Panel

    codes = pd.array([None, *[1] * 19], "Int8")
    frame(target=[np.nan, *np.arange(19.0)], feature_b=codes, beta=0.5).to_parquet(tmp_path / "panel.parquet")
    assert status(["data", "check", "panel.parquet", "--factors", "beta"]) == 0
    said = capsys.readouterr().out
    for line in (
        "eras       4, from 0000 to 0003, in order",
        "rows       20, 5 to 5 an era, median 5",
        "features   2, int8 in 5 bins",
        "factors    1",
        "ids        none",
        "missing    1 values: feature_b (1 of 20)",
        "target     1 unknown of 20; 19 distinct values, mean 9, deviation 5.477",
        "quantiles  0 | 4.5 | 9 | 13.5 | 18  (least, quartiles, most)",
        f"digest     {Panel.from_parquet('panel.parquet', factors='beta').digest}",
        "constant   0 of 2 features; within eras feature_b (3 eras)",
        "nothing is wrong",
    ):
        assert line in said, said


def test_data_check_reads_every_kind_of_file_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from alignray.data import Panel, write_shards

    data = frame(feature_a=np.linspace(0, 1, 20), id=[f"n{row}" for row in range(20)])
    data.to_parquet(tmp_path / "panel.parquet")
    data.to_feather(tmp_path / "panel.feather")
    data.to_csv(tmp_path / "panel.csv", index=False)
    write_shards(Panel.from_frame(data, bins=5), tmp_path / "shards", eras_per_shard=2)
    pages = []
    for name in ("panel.parquet", "panel.feather", "panel.csv", "shards"):
        assert status(["data", "check", name, "--bins", "5"]) == 0
        pages.append([line.rstrip() for line in capsys.readouterr().out.splitlines()])
    assert pages[0] == pages[1] == pages[2]
    assert set(pages[3]) - set(pages[0]) == {"missing    not kept in shards"}
    assert "nothing is wrong" in pages[0]
