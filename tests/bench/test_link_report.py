"""Figures of links, from what two ends have seen."""

import pytest

from lowcomm_node.bench.link_load import EndResult, LinkLoad, Whereabouts
from lowcomm_node.bench.link_report import cap_figures, meeting_figures


def test_meetings_that_connect_are_kept_apart_from_later_ones() -> None:
    """Medians over the rounds; a payload of 2.5 MB takes a second at 20 Mbit/s."""
    results = [
        EndResult(meetings_s=[2.0, 1.25, 1.0]),
        EndResult(meetings_s=[4.0, 1.25]),
        EndResult(failures=["timeout"]),
    ]

    figures = meeting_figures("line", "grpc", 2_500_000, results, rate_mbit=20.0, tcp_later_s=1.0)

    assert (figures.first_s, figures.later_s) == (3.0, 1.25)
    assert figures.first_efficiency == pytest.approx(1 / 3)
    assert figures.later_efficiency == pytest.approx(0.8)
    assert figures.of_tcp == pytest.approx(0.8)
    assert (figures.meetings, figures.failed) == (5, 1)


def test_without_a_line_there_is_no_efficiency() -> None:
    figures = meeting_figures(
        "loopback", "tcp", 1 << 20, [EndResult(meetings_s=[1.0, 0.5])], rate_mbit=None, tcp_later_s=None
    )

    assert figures.first_efficiency is figures.later_efficiency is figures.of_tcp is None
    assert figures.later_mib_per_s == 2.0


def test_the_rate_leaves_out_the_windows_that_fill_first() -> None:
    """1 MB at once, then 2 MB/s; a connection that is gone counts nothing. The busiest second shows the burst."""
    received = [(0.0, 0), (0.1, 1_000_000), *((0.1 + k / 10, 1_000_000 + k * 200_000) for k in range(1, 46)), (5.0, 0)]

    figures = cap_figures("loopback", "grpc", "down", 16.0, received, probes_s=[0.2, 0.1, 0.6], idle_probe_s=0.1)

    assert figures.rate_mbit == pytest.approx(16.0)
    assert figures.of_cap == pytest.approx(1.0)
    assert figures.most_in_a_second_mbit == pytest.approx(22.4, abs=1.7)
    assert (figures.probes, figures.probe_median_s, figures.probe_max_s) == (3, 0.2, 0.6)


def test_loads_and_results_travel_as_text() -> None:
    """As they were; they are for another process."""
    load = LinkLoad(
        carrier="grpc", host="127.0.0.1", is_answerer=False, offer_bytes=5, close_bytes=2,
        peer=Whereabouts(address="127.0.0.1:1", peer_id="x", certificate="00"),
    )  # fmt: skip

    assert LinkLoad.from_json(load.to_json()) == load
    assert load.payload_bytes == 7
    assert EndResult.from_json(EndResult(meetings_s=[1.0]).to_json()).meetings_s == [1.0]
