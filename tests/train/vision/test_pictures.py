"""Drawing batches: reproducible, and shifted no further than is allowed."""

import torch

from lowcomm_node.train.vision.pictures import Drawing, InMemory, scaled

_GRID = torch.arange(1, 65, dtype=torch.uint8).view(1, 1, 8, 8)


def drawing(most_shift: int, *, is_mirroring: bool) -> Drawing:
    """Of one picture whose pixels all differ."""
    return Drawing(pictures=InMemory(_GRID, torch.tensor([5])), most_shift=most_shift, is_mirroring=is_mirroring)


def test_a_batch_depends_on_the_generator_alone() -> None:
    """The same seed gives the same pictures, whatever was drawn elsewhere."""
    data = drawing(1, is_mirroring=True)
    one = data.batch(16, torch.Generator().manual_seed(3))
    torch.manual_seed(4)
    two, other = (data.batch(16, torch.Generator().manual_seed(seed)) for seed in (3, 5))

    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    assert not torch.equal(one[0], other[0])


def test_pictures_are_shifted_and_mirrored() -> None:
    """Every shift by up to so many pixels, mirrored or not, and nothing else; what comes in is black."""
    around = torch.nn.functional.pad(_GRID, (1, 1, 1, 1))
    shifted = [around[0, :, i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
    possible = [scaled(picture) for picture in (*shifted, *(p.flip(2) for p in shifted))]

    pictures, classes = drawing(1, is_mirroring=True).batch(400, torch.Generator().manual_seed(0))

    found = {next(k for k, one in enumerate(possible) if torch.equal(one, picture)) for picture in pictures}
    assert found == set(range(18))
    assert (classes == 5).all()


def test_nothing_is_changed_where_it_is_not_wanted() -> None:
    """Beyond the scale: bytes become -1 to 1."""
    pictures, _ = drawing(0, is_mirroring=False).batch(3, torch.Generator().manual_seed(0))

    assert torch.equal(pictures, scaled(_GRID).expand(3, 1, 8, 8))
    assert scaled(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1.0, 1.0]
