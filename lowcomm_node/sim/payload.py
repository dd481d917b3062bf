"""What a meeting of the parameters weighs, by the real size functions: the plan an honest node makes once it knows differences."""

from lowcomm_node.algo.budget import EnergyModel, choose_counts
from lowcomm_node.algo.sizes import PartBytes, part_bytes
from lowcomm_node.core.messages import StreamPlan
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.train.gpt import GPT
from lowcomm_node.train.model import build_model, parameter_shapes
from lowcomm_node.units import Codec, Dtype, Omega, Stream

__all__ = ["payload_bytes"]


def payload_bytes(manifest: Manifest) -> PartBytes:
    """Offer, answer and close of one meeting of a manifest's parameters. A gpt's memory is asked for, and never touched."""
    shapes = parameter_shapes(GPT(manifest.model) if manifest.model.kind == "gpt" else build_model(manifest))
    codec, dtype, omega = Codec(manifest.meeting.codec), Dtype(manifest.meeting.dtype), Omega(manifest.meeting.omega)
    match codec:
        case Codec.AB:
            ranks = EnergyModel(shapes).choose_ranks(manifest.budget_bytes, dtype, omega)
        case Codec.SPARSE:
            ranks = choose_counts(shapes, manifest.budget_bytes, dtype)
        case _:
            ranks = (-1,) * len(shapes)
    used = omega if codec is Codec.AB else Omega.SEEDED
    return part_bytes(shapes, StreamPlan(stream=Stream.PARAMS, codec=codec, dtype=dtype, ranks=ranks, omega=used))
