"""What a payload's bytes are read by, as a target of a coverage-guided fuzzer, beside ``targets``: this one needs torch.

python -m tests.fuzz.payloads payload [libFuzzer options] CORPUS_FOLDER
"""

import atheris

with atheris.instrument_imports(include=["lowcomm_node.algo"]):
    from lowcomm_node.algo import exchange, moments
    from lowcomm_node.algo.sizes import part_bytes

import torch

from lowcomm_node.core.messages import StreamPlan
from lowcomm_node.units import Codec, Dtype, Stream
from tests.fuzz.targets import run

_TENSORS = (torch.linspace(-1, 1, 24).reshape(4, 6), torch.linspace(0.1, 2, 5))
_PLANS = (
    *(
        StreamPlan(stream=Stream.PARAMS, codec=codec, dtype=dtype, ranks=ranks)
        for codec, ranks in ((Codec.AB, (2, -1)), (Codec.DENSE, (-1, -1)), (Codec.SPARSE, (7, 2)))
        for dtype in Dtype
    ),
    StreamPlan(stream=Stream.EXP_AVG_SQ, codec=Codec.RANK1, dtype=Dtype.FP32, ranks=(1, -1)),
)


def payload(data: bytes) -> None:
    """The payloads of all codecs, read by the answerer as an offer and a close, and by the initiator as an answer."""
    if not data:
        return
    plan = _PLANS[data[0] % len(_PLANS)]
    body = data[1:]
    seed = b"fuzz"
    try:
        if plan.codec is Codec.RANK1:
            sizes = moments.part_bytes(_shapes(), plan)
            moments.encode_answer(_TENSORS, plan, _fit(body, sizes.offer))
            moments.finish(_shapes(), plan, moments.encode_offer(_TENSORS, plan), _fit(body, sizes.answer))
            return
        sizes = part_bytes(_shapes(), plan)
        offer = _fit(body, sizes.offer)
        answer, half = exchange.encode_answer(_TENSORS, plan, seed, offer)
        exchange.encode_close(_TENSORS, plan, seed, offer, _fit(body[::-1], len(answer)))
        exchange.finish(half, _fit(body, sizes.close))
    except ValueError:
        return  # what the trainer refuses as malformed


def _shapes() -> tuple[torch.Size, ...]:
    return tuple(tensor.shape for tensor in _TENSORS)


def _fit(data: bytes, length: int) -> bytes:
    """The length is checked before anything else; most of the fuzzer's should get past it, some should not."""
    if not data or data[-1] == 0:
        return data
    return (data * (length // len(data) + 1))[:length]


def seeds(_: str) -> list[bytes]:
    """Some bytes for each plan."""
    return [bytes([number]) + bytes(range(1, 200)) for number in range(len(_PLANS))]


if __name__ == "__main__":
    torch.set_num_threads(1)
    run({"payload": payload}, seeds)
