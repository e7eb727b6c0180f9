"""A trial that needs more memory than there is: it ends in words, and the next one runs in the same process."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from alignray.costs import Quadratic
from alignray.errors import OutOfMemoryError, TrainingError
from alignray.models import ModelConfig
from alignray.training import TrainingConfig
from alignray.trial import ScoringConfig, SplitConfig, Trial, TrialConfig

ROOT = Path(__file__).parents[2]
COST = Quadratic(1.0)
NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def config(**changes) -> TrialConfig:
    fields = {
        "cost": COST,
        "scoring": ScoringConfig(cost=COST),
        "model": ModelConfig(width=8),
        "training": TrainingConfig(eras_per_batch=4),
        "split": SplitConfig(folds=1, embargo=1),
    }
    return TrialConfig(**fields | changes)


def in_little_memory(script: str) -> list[str]:
    """What a script says that has room for 400 MB once it calls ``limit``."""
    before = """
    import resource, sys
    from pathlib import Path
    import torch
    torch.set_num_threads(1)
    sys.path.insert(0, "tests/trial")
    from test_memory import config
    from alignray.data import datasets
    from alignray.errors import AlignrayError
    from alignray.models import ModelConfig
    from alignray.trial import Trial
    panel = datasets.synthetic(num_eras=24, rows=200, num_features=5, seed=0)
    Trial(config(), panel).step()  # whatever is loaded at first use is loaded

    def limit():
        used = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize"))
        resource.setrlimit(resource.RLIMIT_AS, (1024 * used + 400_000_000, -1))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(before) + textwrap.dedent(script)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


ON_LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory as Linux does")


@ON_LINUX
def test_a_trial_that_needs_too_much_ends_in_words_and_the_next_one_runs():
    too_large, too_deep, after = in_little_memory(
        """
        limit()
        for model in (ModelConfig(width=20_000, depth=1), ModelConfig(width=9_000, depth=2), ModelConfig(width=8)):
            try:
                print(sorted(Trial(config(model=model), panel).step())[0])
            except AlignrayError as error:
                assert error.__context__ is None, "it would keep the tensors of the step alive"
                print(type(error).__name__, error)
        """
    )
    batch = "training.eras_per_batch=4 (with training.accumulate raised as much, a step still sees the same eras), "
    for said, done, lower in ((too_large, "trained", batch), (too_deep, "built", "")):
        assert said.startswith(f"OutOfMemoryError out of memory while the trial was {done}: ")
        assert " GB more were asked for, 0." in said
        assert f"lower {lower}members=4 or model.width=" in said
        assert "resources.max_concurrent" in said
    assert after == "solver/residual_max"


@ON_LINUX
def test_a_sweeps_worker_fails_the_trial_and_goes_on_with_the_next():
    first, freed, second = in_little_memory(
        """
        import tempfile
        from alignray.checkpoint import CheckpointHistory
        from alignray.search import Proposal
        from alignray.sweep.log import TrialLog
        from alignray.sweep.trainable import TrialTrainable

        class Context:
            threads, device, folds = 1, "cpu", None
            panel = type("Placed", (), {"fetch": lambda self: panel})()
            history = lambda self, key: CheckpointHistory(Path("/nonexistent"), 2)
            log = lambda self, key: TrialLog(Path(tempfile.mkdtemp()), key)
            keep = lambda *given: None
            base = type("Carried", (), {"config": config()})()

        def proposed(**values):
            return {"proposal": Proposal("mse", 0, {f"model.{name}": value for name, value in values.items()})}

        limit()
        worker = TrialTrainable.__new__(TrialTrainable)
        worker.setup(proposed(width=20_000, depth=1), context=Context())
        print(worker.step())
        print(torch.empty(70_000_000).shape)
        worker.reset_config(proposed(width=8))
        print(worker.step())
        """
    )
    assert "'done': True, 'finished': False, 'epoch': 0, 'failed': 'out of memory while the trial was trained" in first
    assert freed == "torch.Size([70000000])"
    assert "'epoch': 1, 'score'" in second


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has"), "21.5 GB more"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 7500000 bytes."), "0.0075 GB"),
        (MemoryError("Unable to allocate 8.00 TiB for an array with shape (1,)"), "8.8e+03 GB"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "trained: "),
        (RuntimeError("std::bad_alloc"), "trained: "),
        (MemoryError(), "trained: "),
    ],
)
def test_every_library_s_words_are_understood(error, said, panel, monkeypatch):
    trial = Trial(config(), panel)

    def run_epoch(epoch):
        raise error

    monkeypatch.setattr(trial._trainers[0], "run_epoch", run_epoch)
    with pytest.raises(OutOfMemoryError, match="out of memory while the trial was trained") as caught:
        trial.step()
    assert said in str(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), TrainingError("bad_alloc is no member")])
def test_other_errors_are_what_they_were(error, panel, monkeypatch):
    trial = Trial(config(), panel)

    def run_epoch(epoch):
        raise error

    monkeypatch.setattr(trial._trainers[0], "run_epoch", run_epoch)
    with pytest.raises(type(error)) as caught:
        trial.step()
    assert caught.value is error


def test_scoring_heeds_no_batch_size(panel, monkeypatch):
    """So the advice is not to lower it."""

    def exhausted(panel, places):
        raise MemoryError

    monkeypatch.setattr("alignray.trial.scoring._groups", exhausted)
    with pytest.raises(OutOfMemoryError, match="while the trial was scored") as caught:
        Trial(config(), panel).step()
    assert "eras_per_batch" not in str(caught.value)
    assert "lower members=4 or model.width=8" in str(caught.value)


def test_scoring_the_holdout_is_guarded_too(panel, monkeypatch):
    trial = Trial(config(), panel)
    trial.step()

    def exhausted(panel, places):
        raise MemoryError

    monkeypatch.setattr("alignray.trial.scoring._groups", exhausted)
    with pytest.raises(OutOfMemoryError, match="while the trial was scored"):
        trial.score_on(panel, range(panel.num_eras))


@NO_CUDA
def test_a_gpu_that_is_too_small_ends_in_words_and_is_freed(panel):
    width = 200_000  # a hidden layer of 160 GB for each member
    before = torch.cuda.memory_reserved()
    with pytest.raises(OutOfMemoryError, match=r"GB more were asked for, .* GB of the GPU's .* gpus_per_trial"):
        Trial(config(model=ModelConfig(width=width, depth=2)), panel, device="cuda").step()
    assert torch.cuda.memory_reserved() <= before
    Trial(config(), panel, device="cuda").step()
