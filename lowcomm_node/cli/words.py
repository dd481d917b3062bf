"""Numbers and names as people read them in a terminal."""

__all__ = ["ago", "amount", "count", "duration", "printable", "size"]


def printable(text: str) -> str:
    """``text`` with what could steer the terminal taken out: names of runs and details come from other people."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def count(number: int, noun: str) -> str:
    """``1 peer``, ``2 peers``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def amount(number: float) -> str:
    """Three significant digits and a factor of a thousand: 950, 1.25 k, 3.1 M."""
    for unit in ("", " k", " M", " G", " T"):
        if abs(number) < 999.5:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g} P"


def size(num_bytes: float) -> str:
    """Bytes in powers of 1024: 512 B, 1.5 KiB."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(num_bytes) < 999.5:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.3g} PiB"


def duration(seconds: float) -> str:
    """The two largest units: 0.4 s, 12 s, 3 min 20 s, 5 h 2 min, 12 d 3 h."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, length, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= length:
            rest = whole % length // part
            return f"{whole // length} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def ago(seconds: float) -> str:
    """``12 s ago``; a negative time has not come yet."""
    return f"{duration(seconds)} ago" if seconds >= 0 else "never"
