"""Who has proven to be whom, on which connection. Everything in it is bounded; nothing in it waits."""

from collections import OrderedDict, deque
from dataclasses import dataclass

from lowcomm_node.core.places import Fullness
from lowcomm_node.units import PeerId

__all__ = ["Nonces", "Sessions"]


@dataclass(slots=True)
class _Session:
    peer: PeerId
    connection: str
    used_at: float
    until: float


class Sessions:
    """What each token stands for. Invariant: a token is worth something on the connection that it was given on, and nowhere else.

    A peer has ``max_per_peer`` sessions at most and pushes out none but its own with more; the table as a whole forgets the
    least lately used. Who is forgotten has to prove itself again, and loses nothing else.
    """

    def __init__(self, *, max_sessions: int = 4096, max_per_peer: int = 8, keep_s: float = 3600.0) -> None:
        self._max_sessions = max_sessions
        self._max_per_peer = max_per_peer
        self._keep_s = keep_s
        self._by_token: OrderedDict[bytes, _Session] = OrderedDict()
        self._by_peer: dict[PeerId, deque[bytes]] = {}

    def __len__(self) -> int:
        return len(self._by_token)

    @property
    def fullness(self) -> Fullness:
        return Fullness(len(self), self._max_sessions)

    def open(self, token: bytes, peer: PeerId, connection: str, now: float, *, until: float) -> None:
        """The peer has proven itself on this connection and was given this token, which is worth something ``until`` then."""
        self._expire(now)
        tokens = self._by_peer.setdefault(peer, deque())
        if len(tokens) >= self._max_per_peer:
            self._forget(tokens[0])
        if len(self._by_token) >= self._max_sessions:
            self._forget(next(iter(self._by_token)))
        self._by_token[token] = _Session(peer, connection, now, until)
        self._by_peer.setdefault(peer, deque()).append(token)

    def find(self, token: bytes, connection: str, now: float) -> PeerId | None:
        """Whose token is this? None when it is nobody's, has not been used for too long, or came over another connection."""
        self._expire(now)
        session = self._by_token.get(token)
        if session is None or session.connection != connection or now >= session.until:
            return None
        session.used_at = now
        self._by_token.move_to_end(token)
        return session.peer

    def knows(self, token: bytes) -> bool:
        """Was this token given to anybody? Not yet an answer to whether it may be used here."""
        return token in self._by_token

    def end(self, peer: PeerId) -> None:
        """Forget all sessions of a peer."""
        for token in list(self._by_peer.get(peer, ())):
            self._forget(token)

    def _expire(self, now: float) -> None:
        while self._by_token:
            token, session = next(iter(self._by_token.items()))
            if now - session.used_at <= self._keep_s:
                return
            self._forget(token)

    def _forget(self, token: bytes) -> None:
        peer = self._by_token.pop(token).peer
        self._by_peer[peer].remove(token)
        if not self._by_peer[peer]:
            del self._by_peer[peer]


class Nonces:
    """Which proofs have been heard before?

    A proof is believed for ``window_s`` around the time it names, so a nonce is remembered for twice as long. Where there are
    too many the oldest are forgotten: a proof is signed for one receiver and its certificate, and hardly anybody could have
    overheard it.
    """

    def __init__(self, *, window_s: float, max_nonces: int = 65_536) -> None:
        self.window_s = window_s
        self._max_nonces = max_nonces
        self._heard_at: OrderedDict[bytes, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._heard_at)

    @property
    def fullness(self) -> Fullness:
        return Fullness(len(self), self._max_nonces)

    def is_new(self, nonce: bytes, now: float) -> bool:
        """Take in a nonce; False when it was heard before."""
        while self._heard_at and (oldest := next(iter(self._heard_at.items())))[1] < now - 2 * self.window_s:
            del self._heard_at[oldest[0]]
        if nonce in self._heard_at:
            return False
        if len(self._heard_at) >= self._max_nonces:
            self._heard_at.popitem(last=False)
        self._heard_at[nonce] = now
        return True
