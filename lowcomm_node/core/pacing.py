"""How fast may downloads be served? A token bucket that counts while a meeting of this node is under way."""

__all__ = ["Pacer"]


class Pacer:
    """Meetings are small and somebody waits for them; a download is large and can wait.

    While no meeting is under way a download may use the whole line, whose speed this node does not know. During a
    meeting all downloads together get ``rate_bytes_per_s``; what they have sent before does not count against them.
    """

    def __init__(self, rate_bytes_per_s: float) -> None:
        self._rate_bytes_per_s = rate_bytes_per_s
        self._is_free_at = 0.0

    def wait_s(self, num_bytes: int, now: float, *, is_meeting: bool) -> float:
        """Seconds to wait before these bytes are sent; they are booked, so ask once for each piece. ``now`` is monotonic seconds."""
        if not is_meeting:
            self._is_free_at = now
            return 0.0
        starts_at = max(now, self._is_free_at)
        self._is_free_at = starts_at + num_bytes / self._rate_bytes_per_s
        return starts_at - now
