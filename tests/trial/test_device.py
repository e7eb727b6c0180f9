import pytest
import torch

from alignray.errors import InvalidArgumentError
from alignray.trial.device import require_device


def test_the_cpu_is_always_there():
    assert require_device("cpu") == torch.device("cpu")
    assert require_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("device", ["tpu", "meta", "cuda:x", ""])
def test_what_is_no_device_of_ours_is_refused(device):
    with pytest.raises(InvalidArgumentError, match=r"device: expected cpu, cuda or cuda:N, got"):
        require_device(device)


def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(InvalidArgumentError, match=r"device: got 'cuda:99', and this process sees \d+ GPUs"):
        require_device("cuda:99")
