"""How fast may bytes go? Buckets that fill with time: one for each direction of the line, one for downloads."""

__all__ = ["Cap", "Pacer"]


class Cap:
    """No more than ``rate_bytes_per_s`` in one direction, all payloads together; 0 is no cap.

    What may not wait is sent at once and counts all the same: the payloads behind it make up for it.
    """

    def __init__(self, rate_bytes_per_s: float) -> None:
        self._rate_bytes_per_s = rate_bytes_per_s
        self._is_free_at = 0.0

    def wait_s(self, num_bytes: int, now: float, *, is_urgent: bool = False) -> float:
        """Seconds to wait with these bytes; they are booked, so ask once for each piece. ``now`` is monotonic seconds.

        The wait is until the line would have been done with them: over any time, less than a piece above the rate.
        """
        if not self._rate_bytes_per_s:
            return 0.0
        self._is_free_at = max(now, self._is_free_at) + num_bytes / self._rate_bytes_per_s
        return 0.0 if is_urgent else self._is_free_at - now


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
