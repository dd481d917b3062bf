"""What ended the trainer, in the words of the error tree: torch says much of it in plain RuntimeErrors only.

torch is not imported here, so that the process can fail before it is: its errors are known by their names and texts.
"""

from lowcomm_node.errors import DeviceError, LowcommError, OutOfMemoryError, TrainerError

__all__ = ["fault_of", "is_out_of_memory"]

_MEMORY_WORDS = (
    "out of memory",  # CUDA's own, where torch has no class for it
    "can't allocate memory",  # torch's allocator on the CPU
    "not enough memory",  # likewise, on other systems
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "std::bad_alloc",
    "can't start new thread",  # no memory for its stack
)
_DEVICE_WORDS = ("CUDA error", "CUBLAS_STATUS_", "CUDNN_STATUS_", "NCCL error", "cuDNN error")
_MAX_WORDS = 500


def is_out_of_memory(error: BaseException) -> bool:
    """Did an allocation fail, on the device or on the machine?"""
    if isinstance(error, MemoryError | OutOfMemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and _has(_MEMORY_WORDS, str(error))


def fault_of(error: Exception) -> LowcommError:
    """``error`` as one of ours, with a bounded text.

    A follower's last words reach us as the text of a TrainerError, so the text of one counts too.
    """
    if isinstance(error, LowcommError) and type(error) is not TrainerError:
        return error
    text = " ".join(str(error).split())[:_MAX_WORDS]
    if is_out_of_memory(error) or (isinstance(error, TrainerError) and _has(_MEMORY_WORDS, text)):
        return OutOfMemoryError(f"memory does not suffice: {text}")
    if type(error).__name__ == "AcceleratorError" or (
        isinstance(error, RuntimeError | TrainerError) and _has(_DEVICE_WORDS, text)
    ):
        return DeviceError(f"the device failed: {text}")
    return TrainerError(text if isinstance(error, TrainerError) else f"{type(error).__name__}: {text}")


def _has(words: tuple[str, ...], text: str) -> bool:
    return any(word in text for word in words)
