"""Clipped gossip (He, Karimireddy, Jaggi, arXiv 2202.01545): how far one meeting may move a node, whoever it meets.

Symbols: C the pair's correction, |C| its Frobenius norm over a stream, tau a node's largest |C| taken unscaled, s the scale,
w the mixing weight, CLIP(z, tau) = min(1, tau/|z|) z. Both ends apply s C with s = min(1, tau_i/|C|, tau_j/|C|).

Differs from the paper in two ways. There each end clips with its own tau alone, and a pair whose ends clip differently moves its
mean; here both take the smaller of the two, so that the mean stays. There tau_i follows from the distances to the honest
neighbours, which no node can know; here it is a multiple of the median |C| of a node's recent meetings: as long as fewer than half
of them were with hostile partners, tau stays within that multiple of what honest ones have shown.
"""

import math
import sys
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from functools import partial
from math import isfinite
from statistics import median

from torch import Tensor

from lowcomm_node.units import Codec, Factor, Stream

__all__ = ["ClipNorms", "clip_scale", "reference_clipped_pair"]

_Kind = tuple[Stream, Codec, str]
"""And in which span: "" is none, a factor's name the one of who trains it."""
_BEFORE = "before"
"""In place of a span: whole differences of a time that is over."""

_MEMORY = 64
"""Meetings remembered, of which the newer half counts: 32 are enough that one partner does not move their median, and few enough
to follow a run. Half, and not all, because differences start at zero: while they grow with the square of time (linear warm-up
of the learning rate), the newest is 4 times the median of all since the start, and 1.8 times that of the newer half."""
_FEWEST = 16
"""Meetings before the median is believed."""
_OTHER_CODEC = 16.0
"""How many times larger a difference may look in one codec than in another: sqrt(n) when one shows a share 1/n of its energy."""


def reference_clipped_pair(
    x_i: Tensor, x_j: Tensor, *, tau_i: float, tau_j: float, weight: float
) -> tuple[Tensor, Tensor]:
    """One exchange of x_i and x_j (same shape), line by line in fp64: the paper's update with C clipped by both ends.

    z   = x_j - x_i                             c = CLIP(CLIP(z, tau_i), tau_j)
    x_i <- x_i + weight c                       x_j <- x_j - weight c
    """
    x_i, x_j = x_i.double(), x_j.double()
    clipped = _reference_clip(_reference_clip(x_j - x_i, tau_i), tau_j)
    return x_i + weight * clipped, x_j - weight * clipped


def _reference_clip(z: Tensor, tau: float) -> Tensor:
    norm = float(z.norm())
    return z if norm <= tau else tau / norm * z


def clip_scale(norm: float, own: float, theirs: float) -> float:
    """s = min(1, own/norm, theirs/norm) for |C| = ``norm``, finite; the bounds are positive and may be infinite.

    Always above 0 and at most 1, so that a scale of 0 on the wire is nothing but a mistake.
    """
    if norm <= 0.0:
        return 1.0
    return max(min(1.0, own / norm, theirs / norm), sys.float_info.min)


class ClipNorms:
    """tau of one node, for each stream and codec by itself: whole tensors show more of a difference than low rank.

    And by the factor in whose coordinates AB-training's meetings are, if they are: those differences have grown in one span. What is
    known of one kind bounds the others of a stream too, loosely, or else who is hostile would choose one not yet seen.
    """

    def __init__(self, ratio: float) -> None:
        """``ratio`` times the median is tau (meeting.clip_ratio); 0 is no clipping at all."""
        self._ratio = ratio
        self._seen: defaultdict[_Kind, deque[float]] = defaultdict(partial(deque, maxlen=_MEMORY))

    def observe(self, stream: Stream, codec: Codec, norm: float, factor: Factor | None = None) -> None:
        """A meeting is complete whose correction measured ``norm`` before clipping.

        The clipped norm would not do: tau could then never grow by more than it lets through. A norm of 0 (equal replicas,
        nothing legible) says nothing about honest differences, and a tau of 0 would end all mixing.
        """
        if norm > 0.0:
            self._seen[stream, codec, factor or ""].append(norm)

    def export(self) -> dict[str, list[float]]:
        """What was seen, as plain numbers for a checkpoint: a node that restarts need not believe everything again."""
        return {" ".join(filter(None, kind)): list(seen) for kind, seen in self._seen.items()}

    def recall(self, exported: Mapping[str, Sequence[float]]) -> None:
        """Replace what was seen by what ``export`` gave. Raises ValueError for anything else."""
        recalled = {}
        for name, norms in exported.items():
            stream, codec, *spans = name.split(" ")
            span = " ".join(spans)
            if span not in ("", _BEFORE, *Factor):
                raise ValueError(f"{name}: no span is called {span}")
            if not all(isfinite(norm) and norm > 0 for norm in norms):
                raise ValueError(f"{name}: a norm that is not positive and finite")
            recalled[Stream(stream), Codec(codec), span] = norms
        self._seen.clear()
        for key, norms in recalled.items():
            self._seen[key].extend(norms)

    def begin_anew(self, stream: Stream) -> None:
        """Whole differences of a stream will be of another size than before: what was seen of them bounds the new ones loosely."""
        for owner, codec, span in list(self._seen):
            if owner is stream and not span:
                seen = self._seen.pop((stream, codec, span))
                if len(seen) >= _FEWEST:  # or else what is known from earlier says more
                    self._seen[stream, codec, _BEFORE] = seen

    def limit(self, stream: Stream, codec: Codec, factor: Factor | None = None) -> float:
        """tau: the largest |C| to be taken unscaled; infinite before enough was seen."""
        if not self._ratio:
            return math.inf
        medians = [
            median(list(seen)[len(seen) // 2 :]) * (1.0 if known == [codec, factor or ""] else _OTHER_CODEC)
            for (owner, *known), seen in self._seen.items()
            if owner is stream and len(seen) >= _FEWEST
        ]
        return self._ratio * min(medians, default=math.inf)
