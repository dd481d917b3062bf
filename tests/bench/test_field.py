"""Arithmetic of ``bench field``."""

import pytest

from lowcomm_node.bench.field import Look, contenders, curve_of, reckoned_bytes
from lowcomm_node.bench.reference_load import Telling
from lowcomm_node.bench.requests import FieldRequest
from lowcomm_node.errors import ConfigError


def test_bytes_by_formula() -> None:
    """Four members send 1.5 times the fp32 model each time: DDP in every step, DiLoCo every H and at the end, local never."""
    once = 1.5 * 1000 * 4

    found = {c.label: reckoned_bytes(c, parameters=1000, nodes=4, steps=105) for c in contenders((50, 10, 50))}

    assert found == {
        "swarm": None,
        "ddp": 105 * once,
        "diloco-h50": 3 * once,
        "diloco-h10": 11 * once,
        "local": 0.0,
    }


def test_curve_is_over_all_members() -> None:
    """Tokens are summed, bytes and known losses averaged; looks that not all took at one step are left out."""
    first = [_telling(0, 5.0, 0), _telling(10, 4.0, 100), _telling(20, 3.0, 200)]
    second = [_telling(0, 6.0, 0), _telling(10, None, 300), _telling(19, 3.0, 200)]

    assert curve_of([first, second]) == (
        Look(tokens=0, bytes_per_node=0.0, loss=5.5),
        Look(tokens=160, bytes_per_node=200.0, loss=4.0),
    )


@pytest.mark.parametrize(
    "request_",
    [
        FieldRequest(nodes=1),
        FieldRequest(steps=5),
        FieldRequest(seeds=0),
        FieldRequest(diloco_every_steps=()),
        FieldRequest(steps=40),
    ],
)
def test_what_cannot_work_is_refused(request_: FieldRequest) -> None:
    """40 steps have no 50 between two exchanges."""
    with pytest.raises(ConfigError, match="allowed"):
        request_.check()


def _telling(steps: int, loss: float | None, received_bytes: int) -> Telling:
    return Telling(steps=steps, tokens=8 * steps, loss=loss, received_bytes=received_bytes)
