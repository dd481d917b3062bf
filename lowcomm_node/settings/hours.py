"""Spans of the day, as a volunteer writes them."""

import re

__all__ = ["parse_hours"]

_SPAN = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]|24):([0-5]\d)")
_DAY_MINUTES = 24 * 60


def parse_hours(text: str) -> tuple[tuple[int, int], ...]:
    """Spans as minutes since midnight, from "22:00-07:00, 12:00-13:30"; empty is none.

    The end does not belong to a span; one that ends before it begins goes over midnight. Raises ValueError.
    """
    spans = []
    for part in text.split(",") if text.strip() else ():
        found = _SPAN.fullmatch(part.strip())
        begin_h, begin_m, end_h, end_m = map(int, found.groups()) if found else (0, 0, 0, 0)
        begin, end = 60 * begin_h + begin_m, 60 * end_h + end_m
        if begin == end or end > _DAY_MINUTES:
            raise ValueError(f"{part.strip()!r} is none")
        spans.append((begin, end))
    return tuple(spans)
