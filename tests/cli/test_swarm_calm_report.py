"""A troubled swarm beside undisturbed ones: equal progress, equal tokens, and a spread that was measured."""

import dataclasses
import re

import pytest
from rich.console import Console

from lowcomm_node.cli.swarm.calm_report import Trained, calm_sizes, calm_table, compare_with_calm

TOKENS_PER_STEP = 10


def _swarm(nodes: int, tokens: int, **losses: float) -> Trained:
    return Trained(nodes=nodes, progress_steps=100.0, tokens=tokens, meetings=7, losses=losses)


FEWER, MORE = _swarm(3, 3000, n0=2.1, n1=2.1), _swarm(4, 4000, n0=2.0, n1=2.0)


def test_the_undisturbed_swarms_have_fewer_and_more_tokens() -> None:
    """By one node; never less than two, which is what it takes to meet, nor more than there are identities."""
    sizes = {
        tokens: calm_sizes(_swarm(5, tokens, n0=2.0), tokens_per_step=TOKENS_PER_STEP, most=6)
        for tokens in (900, 2000, 3600, 5900, 9000)
    }

    assert sizes == {900: (2, 3), 2000: (2, 3), 3600: (3, 4), 5900: (5, 6), 9000: (5, 6)}


def test_what_is_expected_lies_between_them_by_tokens() -> None:
    """A swarm with a quarter of the last node's tokens is to be a quarter of the way down."""
    report = compare_with_calm(_swarm(5, 3250, n1=2.0), FEWER, MORE)

    assert report.expected == pytest.approx(2.075)
    assert report.above == {}


def test_losses_are_within_the_spread_or_above_it_by_so_much() -> None:
    """One percent where undisturbed nodes agree more closely than that; else what their worst one is above their mean."""
    losses = _swarm(5, 4000, n1=2.015, n2=2.03, n3=1.5)
    close = compare_with_calm(losses, FEWER, MORE)
    wide = compare_with_calm(losses, _swarm(3, 3000, n0=2.0, n1=2.2), MORE)

    assert close.spread == pytest.approx(0.02)
    assert close.above == {"n2": pytest.approx(0.01)}
    assert wide.spread == pytest.approx(0.1)
    assert wide.above == {}


def test_fewer_tokens_are_no_excuse_for_more() -> None:
    """The incident: at equal progress a swarm with three quarters of the tokens was judged by one that had them all."""
    losses = _swarm(5, 3100, n1=2.1)

    assert not compare_with_calm(losses, FEWER, MORE).above
    assert compare_with_calm(dataclasses.replace(losses, tokens=4000), FEWER, MORE).above.keys() == {"n1"}


def test_who_was_there_as_rarely_in_order_is_the_measure() -> None:
    """And not those that were there all the time; more or fewer tokens are worth what these say, so nothing is given away."""
    orderly = _swarm(5, 3000, n1=2.14, n2=2.16)
    report = compare_with_calm(_swarm(5, 3250, n1=2.14, n2=2.15), FEWER, MORE, orderly)

    assert report.expected_present == pytest.approx(2.075)
    assert report.expected == pytest.approx(2.125)
    assert report.spread == pytest.approx(0.02125)
    assert report.above == {"n2": pytest.approx(2.15 - 2.125 - 0.02125)}
    assert not compare_with_calm(_swarm(5, 3000, n1=2.17), FEWER, MORE, orderly).above


def test_the_table_shows_them_side_by_side() -> None:
    """The undisturbed ones in the order of their tokens."""
    console = Console(width=160)
    with console.capture() as capture:
        console.print(calm_table(compare_with_calm(_swarm(5, 3250, n1=2.0), FEWER, MORE, _swarm(5, 3000, n1=2.1))))

    rows = [line.split() for line in capture.get().splitlines() if re.search(r"\d,\d", line)]
    assert rows.pop(1) == ["absent", "in", "order", "5", "100", "3,000", "7", "2.1000", "n1", "2.100"]
    assert rows == [
        ["undisturbed", "3", "100", "3,000", "7", "2.1000", "n0", "2.100,", "n1", "2.100"],
        ["with", "trouble", "5", "100", "3,250", "7", "2.0000", "n1", "2.000"],
        ["undisturbed", "4", "100", "4,000", "7", "2.0000", "n0", "2.000,", "n1", "2.000"],
    ]
