"""Checkpoints: what goes in comes out, and a file that is not what was written is never taken for it."""

from __future__ import annotations

import json
import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignray.checkpoint import Checkpoint, CheckpointHistory
from alignray.errors import DataError

TENSORS = {
    "weights": torch.arange(12, dtype=torch.float32).reshape(3, 4) / 7,
    "double": torch.tensor([1e-300, -0.0, float("nan"), float("inf")], dtype=torch.float64),
    "half": torch.tensor([0.5, 1.5], dtype=torch.bfloat16),
    "step": torch.tensor(17.0),
    "count": torch.tensor([2**62], dtype=torch.int64),
    "flags": torch.tensor([True, False]),
    "none": torch.empty(0, 3),
    "transposed": torch.arange(6.0).reshape(2, 3).T,
}
RECORD = {"epoch": 3, "best": {"val/corr": 0.012345678901234567, "val/nan": None}, "text": "ü – 数", "list": [1, [2.5]]}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "trial.ckpt"
    Checkpoint(TENSORS, RECORD).save(path)
    return path


def test_what_goes_in_comes_out(path):
    loaded = Checkpoint.load(path)
    assert loaded.record == RECORD
    assert set(loaded.tensors) == set(TENSORS)
    for name, tensor in TENSORS.items():
        found = loaded.tensors[name]
        assert found.dtype == tensor.dtype
        assert found.shape == tensor.shape
        bits = [a.contiguous().flatten().view(torch.uint8) if a.numel() else a for a in (found, tensor)]
        assert bits[0].equal(bits[1])


@given(
    record=st.dictionaries(
        st.text(),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=5,
        ),
    )
)
def test_any_record_comes_back(record, tmp_path_factory):
    path = tmp_path_factory.mktemp("records") / "trial.ckpt"
    Checkpoint({}, record).save(path)
    assert Checkpoint.load(path).record == record


def test_tensors_that_carry_a_gradient_are_saved_without(path):
    Checkpoint({"w": torch.ones(2, requires_grad=True)}, {}).save(path)
    assert not Checkpoint.load(path).tensors["w"].requires_grad


def test_nothing_is_unpickled(path):
    """A safetensors file is a length, a JSON header, and numbers."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert set(json.loads(data[8 : 8 + length])) == {*TENSORS, "__metadata__"}


def test_a_file_cut_short_anywhere_is_refused(path):
    data = path.read_bytes()
    for length in {*range(0, len(data), 37), len(data) - 1}:
        path.write_bytes(data[:length])
        with pytest.raises(DataError, match=r"trial\.ckpt: "):
            Checkpoint.load(path)


@pytest.mark.parametrize("bit", [0, 3, 5])
def test_a_file_with_a_bit_flipped_anywhere_is_refused(path, bit):
    data = path.read_bytes()
    for position in range(0, len(data), 3):
        altered = bytearray(data)
        altered[position] ^= 1 << bit
        path.write_bytes(altered)
        try:
            loaded = Checkpoint.load(path)
        except DataError:
            continue
        # A bit that means nothing (a space that pads the header) is none to refuse.
        assert loaded.record == RECORD
        assert all(loaded.tensors[name].shape == TENSORS[name].shape for name in TENSORS)
        assert loaded.tensors["weights"].equal(TENSORS["weights"])


def test_more_at_the_end_is_refused(path):
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(DataError):
        Checkpoint.load(path)


def test_tensors_of_another_file_under_the_same_record_are_refused(path, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = {name: value.clone().contiguous() for name, value in TENSORS.items()}
    tensors["weights"][0, 0] += 1
    save_file(tensors, tmp_path / "altered", metadata=metadata)
    with pytest.raises(DataError, match="altered: its content does not match its digest"):
        Checkpoint.load(tmp_path / "altered")


def test_a_foreign_file_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"w": torch.ones(2)}, tmp_path / "plain.safetensors")
    save_file({"w": torch.ones(2)}, tmp_path / "other.safetensors", metadata={"format": "pt"})
    torch.save({"w": torch.ones(2)}, tmp_path / "pickled.pt")
    (tmp_path / "text").write_text("not a checkpoint")
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    for name in ("plain.safetensors", "other.safetensors", "pickled.pt", "text", "empty", "folder", "missing"):
        with pytest.raises(DataError, match=name):
            Checkpoint.load(tmp_path / name)


def test_a_write_that_fails_leaves_the_old_checkpoint(path, monkeypatch):
    def full(descriptor):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        Checkpoint({}, {"epoch": 4}).save(path)
    assert Checkpoint.load(path).record["epoch"] == 3


def test_a_new_checkpoint_replaces_the_old_one_and_leaves_nothing_else(path):
    Checkpoint({}, {"epoch": 4}).save(path)
    assert Checkpoint.load(path).record == {"epoch": 4}
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def after(epoch):
    return Checkpoint({"w": torch.full((3,), float(epoch))}, {"epoch": epoch})


def test_a_history_keeps_the_last_few(tmp_path):
    history = CheckpointHistory(tmp_path / "trial", keep=2)
    assert history.latest() == (None, ())
    for epoch in (5, 10, 100):
        history.save(after(epoch), epoch)
    assert sorted(file.name for file in history.folder.iterdir()) == ["00000010.safetensors", "00000100.safetensors"]
    latest, damaged = history.latest()
    assert latest.record == {"epoch": 100}
    assert latest.tensors["w"].equal(torch.full((3,), 100.0))
    assert damaged == ()
    history.remove()
    assert not history.folder.exists()
    history.remove()


@pytest.mark.parametrize("harm", ["cut short", "altered", "emptied"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(harm, tmp_path):
    history = CheckpointHistory(tmp_path / "trial", keep=2)
    for epoch in (5, 10):
        history.save(after(epoch), epoch)
    newest = history.folder / "00000010.safetensors"
    content = bytearray(newest.read_bytes())
    if harm == "altered":
        content[-2] ^= 1
    newest.write_bytes(content[: {"cut short": len(content) // 2, "emptied": 0}.get(harm)])
    latest, damaged = history.latest()
    assert latest.record == {"epoch": 5}
    (reason,) = damaged
    assert str(newest) in reason
    assert history.latest()[1] == (reason,)  # it stays, until the course that it belongs to is given up
    history.save(after(7), 7)
    assert sorted(file.name for file in history.folder.iterdir()) == ["00000005.safetensors", "00000007.safetensors"]
    assert history.latest()[0].record == {"epoch": 7}


@pytest.mark.parametrize("keep", [1, 2])
def test_a_checkpoint_that_cannot_be_read_now_is_there_another_time(keep, tmp_path, monkeypatch):
    history = CheckpointHistory(tmp_path / "trial", keep)
    history.save(after(5), 5)

    def failing(path):
        raise DataError(f"{path}: the storage is gone")

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoint, "load", failing)
        assert history.latest()[0] is None
    assert history.latest()[0].record == {"epoch": 5}


def test_a_history_without_a_whole_checkpoint_starts_over_and_says_so(tmp_path):
    history = CheckpointHistory(tmp_path / "trial", keep=3)
    for epoch in (1, 2):
        history.save(after(epoch), epoch)
        (history.folder / f"{epoch:08d}.safetensors").write_bytes(b"no checkpoint")
    latest, damaged = history.latest()
    assert latest is None
    assert len(damaged) == 2


def test_an_unfinished_write_is_no_checkpoint(tmp_path):
    history = CheckpointHistory(tmp_path / "trial", keep=2)
    history.save(after(1), 1)
    (history.folder / "00000002.safetensors.partial").write_bytes(b"half")
    latest, damaged = history.latest()
    assert latest.record == {"epoch": 1}
    assert damaged == ()


def test_a_checkpoint_that_is_handed_over_is_the_only_one_there(tmp_path):
    ours, theirs = CheckpointHistory(tmp_path / "ours", keep=2), CheckpointHistory(tmp_path / "theirs", keep=2)
    for epoch in (4, 8):
        ours.save(after(epoch), epoch)
        theirs.save(after(100 + epoch), epoch + 2)
    for _ in range(2):  # a crash may have come after the first time
        ours.hand_to(theirs, 8)
        (path,) = theirs.folder.iterdir()
        assert path.name == "00000008.safetensors"
        checkpoint, damaged = theirs.latest()
        assert (checkpoint.record, damaged) == (after(8).record, ())
    assert len(list(ours.folder.iterdir())) == 2


def test_a_checkpoint_that_is_missing_leaves_none_behind(tmp_path):
    ours, theirs = CheckpointHistory(tmp_path / "ours", keep=2), CheckpointHistory(tmp_path / "theirs", keep=2)
    theirs.save(after(4), 4)
    ours.hand_to(theirs, 4)
    assert theirs.latest() == (None, ())
