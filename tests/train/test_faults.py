"""What ended the trainer, told from torch's errors by class and text."""

import pytest
import torch

from lowcomm_node.core.supervision import Cause
from lowcomm_node.errors import DataError, DeviceError, LowcommError, OutOfMemoryError, TrainerError
from lowcomm_node.train.faults import fault_of, is_out_of_memory

_CPU = (
    "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."
)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), OutOfMemoryError),
        (MemoryError(), OutOfMemoryError),
        (RuntimeError(_CPU), OutOfMemoryError),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), OutOfMemoryError),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), DeviceError),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"), DeviceError),
        (TrainerError("training on 2 devices has stopped: cuda:1: memory: CUDA out of memory"), OutOfMemoryError),
        (
            TrainerError("training on 2 devices has stopped: cuda:1: CUDA error: unspecified launch failure"),
            DeviceError,
        ),
        (TrainerError("a device did not answer within 120 s"), TrainerError),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), TrainerError),
        (ValueError("out of memory"), TrainerError),
        (DataError("no text: out of memory lane"), DataError),
    ],
)
def test_faults_have_names(error: Exception, kind: type[LowcommError]) -> None:
    """Each as the class that the daemon decides by; its code is one of the causes the decision knows."""
    fault = fault_of(error)

    assert type(fault) is kind
    assert kind is DataError or Cause(fault.code)
    assert str(error)[:40] in str(fault)


def test_real_allocator_failures_are_recognised() -> None:
    """Torch's own words on this machine, for more memory than any has."""
    with pytest.raises(RuntimeError) as failure:
        torch.empty(2**62, dtype=torch.uint8)

    assert is_out_of_memory(failure.value)


def test_a_fault_has_a_bounded_text() -> None:
    """A C++ stack trace is no sentence."""
    assert len(str(fault_of(RuntimeError("x\n" * 10_000)))) < 600
