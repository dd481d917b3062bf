"""The network."""

import dataclasses

import pytest
import torch

from lowcomm_node.settings.model import ModelConfig
from lowcomm_node.train.gpt import build_gpt
from lowcomm_node.train.model import count_parameters, parameter_shapes

_TINY = ModelConfig(num_layers=2, num_heads=2, d_model=16, d_ff=32, context_length=12)


def test_initial_weights_depend_on_the_seed_alone() -> None:
    """Every node of a run starts from the same weights, and building a model leaves torch's own generator alone."""
    torch.manual_seed(1)
    expected_next = torch.rand(3)
    torch.manual_seed(1)

    one, same, other = (build_gpt(_TINY, seed) for seed in (7, 7, 8))

    assert torch.equal(torch.rand(3), expected_next)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.embedding, other.embedding)


@pytest.mark.parametrize("tie_embeddings", [False, True])
def test_first_loss_is_near_that_of_a_uniform_guess(tie_embeddings: bool) -> None:
    """Initial logits are small: the loss starts near log V, so the first steps do not unlearn chance."""
    model = build_gpt(ModelConfig(tie_embeddings=tie_embeddings), 0)
    tokens = torch.randint(256, (4, 33), generator=torch.Generator().manual_seed(0))

    loss = torch.nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())

    assert float(loss.detach()) == pytest.approx(5.545, abs=0.15)


def test_no_position_sees_the_future() -> None:
    """Changing a token changes no logits before it."""
    model = build_gpt(_TINY, 0)
    tokens = torch.arange(12).unsqueeze(0)
    changed = tokens.clone()
    changed[0, 7] = 200

    before, after = model(tokens), model(changed)

    assert torch.equal(before[0, :7], after[0, :7])
    assert not torch.allclose(before[0, 7:], after[0, 7:])


def test_order_of_tokens_matters() -> None:
    """Rotary positions reach the attention: the last logits tell two orders of the same prefix apart."""
    model = build_gpt(dataclasses.replace(_TINY, num_layers=1), 0)
    forward, backward = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[3, 2, 1, 4]])

    assert not torch.allclose(model(forward)[0, -1], model(backward)[0, -1])


def test_tied_head_is_one_tensor() -> None:
    """A tied head adds no parameter, so plans and state files hold it once."""
    tied, untied = (build_gpt(dataclasses.replace(_TINY, tie_embeddings=t), 0) for t in (True, False))

    assert count_parameters(untied) - count_parameters(tied) == 256 * 16
    assert len(parameter_shapes(untied)) == len(parameter_shapes(tied)) + 1


def test_recomputed_activations_change_nothing() -> None:
    """Loss and every gradient are the same bits, and far fewer tensors are kept for the backward pass."""
    results = []
    for is_recomputing in (False, True):
        model = build_gpt(_TINY, 3)
        model.is_recomputing = is_recomputing
        kept = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal kept
            kept += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = model(torch.arange(24).view(2, 12)).square().mean()
        loss.backward()
        results.append((kept, float(loss.detach()), [p.grad for p in model.parameters()]))

    (kept, loss_plain, plain), (kept_less, loss_recomputed, recomputed) = results
    assert kept_less < kept / 3
    assert loss_plain == loss_recomputed
    assert all(a is not None and b is not None and torch.equal(a, b) for a, b in zip(plain, recomputed, strict=True))
