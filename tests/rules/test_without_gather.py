"""Operators that tiles compute without gathering: by rules, or by PyTorch's own definitions."""

import pytest
import torch
from tiled import Call, check_tiled
from torch.nn import functional as F

SHAPE = (2, 4, 8, 12)


def masked(x):
    y = x.clone()
    y[y < 0] = 0
    return y


def masked_in_one_channel(x):
    y = x * 1
    y[:, 0][y[:, 0] > 0.5] = 2.0
    return y


def table(x, *shape):
    return torch.linspace(-1, 1, torch.Size(shape).numel(), dtype=x.dtype).view(shape)


def matrices(x):
    return x.movedim(1, -1).unflatten(-1, (2, 2)) + 4 * torch.eye(2).to(x)


OPERATORS = {
    "type_as": lambda x: torch.arange(12).type_as(x) * x,
    "masked": masked,
    "masked_in_one_channel": masked_in_one_channel,
    "one_hot": lambda x: F.one_hot((x[:, 0] > 0).long(), 2).permute(0, 3, 1, 2).to(x),
    "embedding": lambda x: F.embedding((x[:, 0] > 0).long(), table(x, 5, 3)),
    "row_lookup": lambda x: table(x, 5, 3)[(x[:, 0] > 0).long()],
    "bucketize": lambda x: torch.bucketize(x, table(x, 5)),
    "searchsorted": lambda x: torch.searchsorted(table(x, 5), x),
    "scatter": lambda x: torch.zeros_like(x).scatter(1, x.argmax(1, keepdim=True), 1.0),
    "scatter_into_zeros": lambda x: (
        torch.zeros(2 * 96, 4)
        .to(x)
        .scatter(1, x.movedim(1, 3).flatten(0, 2).argmax(1, keepdim=True), 1.0)
    ),
    "scatter_of_a_table": lambda x: x.scatter(1, x.argmax(1, keepdim=True), table(x, *SHAPE)),
    "scatter_add": lambda x: x.scatter_add(1, x.argmax(1, keepdim=True), x[:, :1]),
    "take_along_dim": lambda x: torch.take_along_dim(x, x.argsort(1), 1),
    "gather": lambda x: x.gather(1, x.argmax(1, keepdim=True)),
    "index_add": lambda x: torch.zeros_like(x).index_add(1, torch.tensor([0, 1, 1, 0]), x),
    "kthvalue": lambda x: x.kthvalue(2, 1)[0],
    "kthvalue_places": lambda x: x.kthvalue(2, 1, keepdim=True)[1],
    "median": lambda x: x.median(1)[0],
    "cosine_similarity": lambda x: F.cosine_similarity(x, x.mean((2, 3), keepdim=True), 1),
    "pairwise_distance": lambda x: F.pairwise_distance(x.movedim(1, 3), x.movedim(1, 3) + 1),
    "cdist": lambda x: torch.cdist(x.permute(0, 2, 3, 1).flatten(1, 2), table(x, 7, 4)),
    "hypot": lambda x: torch.hypot(x, x + 1),
    "lgamma": lambda x: torch.lgamma(x.abs() + 1),
    "copysign": lambda x: torch.copysign(x, x - 1),
    "float_power": lambda x: torch.float_power(x.abs(), 1.5),
    "heaviside": lambda x: torch.heaviside(x, x),
    "sinc": lambda x: torch.sinc(x),
    "isclose": lambda x: torch.isclose(x, x + 1).to(x),
    "channel_einsum": lambda x: torch.einsum("bchw,cd->bdhw", x, table(x, 4, 3)),
    "outer_einsum": lambda x: torch.einsum("bchw,bdhw->bcdhw", x, x),
    "tensordot": lambda x: torch.tensordot(x, table(x, 7, 4), ([1], [1])),
    "std_mean": lambda x: torch.std_mean(x, (2, 3))[0],
    "var_mean": lambda x: sum(torch.var_mean(x, (2, 3), keepdim=True)) + x,
    "var_mean_of_channels": lambda x: torch.var_mean(x, 1)[1],
    "any": lambda x: x * (x > 3).any(),
    "all": lambda x: x * (x > -9).all(),
    "any_in_space": lambda x: (x > 1).flatten(2).any(2),
    "all_in_rows": lambda x: (x > -1).all(3, keepdim=True) & (x > 0),
    "largest_of_all": lambda x: (x - x.min()) / (x.max() - x.min()),
    "aminmax": lambda x: x - torch.aminmax(x)[0],
    "largest_in_rows": lambda x: x.max(3)[0],
    "diff": lambda x: torch.diff(x, dim=3).diff(dim=2),
    "rot90": lambda x: torch.rot90(x, 2, (2, 3)),
    "fliplr": lambda x: torch.fliplr(x.movedim(1, 3)),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 3).repeat_interleave(2, 2),
    "tile": lambda x: x.tile(1, 2, 1, 1),
    "kron": lambda x: torch.kron(x, torch.ones(1, 1, 2, 2).to(x)),
    "gradient": lambda x: torch.gradient(x, dim=3)[0],
    "cross": lambda x: torch.cross(x[:, :3], x[:, 1:], dim=1),
    "trapezoid": lambda x: torch.trapezoid(x, dim=1),
    "mse_loss": lambda x: F.mse_loss(x, x + 1),
    "largest_norm": lambda x: x.norm(p=float("inf"), dim=(2, 3)),
    "smallest_norm": lambda x: torch.linalg.vector_norm(x, -float("inf"), dim=3),
    "norm_of_nonzero": lambda x: torch.linalg.vector_norm(x.relu(), 0, dim=(2, 3)),
    "determinant": lambda x: torch.linalg.det(matrices(x)),
    "inverse": lambda x: torch.linalg.inv(matrices(x)),
    "singular_values": lambda x: torch.linalg.svdvals(matrices(x)),
    "eigenvalues": lambda x: torch.linalg.eigvalsh(matrices(x) @ matrices(x).mT),
    "solve": lambda x: torch.linalg.solve(matrices(x), x.movedim(1, -1)[..., :2]),
    "cholesky": lambda x: torch.linalg.cholesky(matrices(x) @ matrices(x).mT + torch.eye(2).to(x)),
    "fake_quantize": lambda x: torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -128, 127),
    "bilinear": lambda x: F.bilinear(x.movedim(1, 3), x.movedim(1, 3) + 1, table(x, 3, 4, 4)),
    "triangle": lambda x: x.triu() + x.tril(1),
}


@pytest.mark.parametrize("operator", OPERATORS)
def test_an_operator_is_tiled(operator):
    plans = check_tiled(Call(OPERATORS[operator]), SHAPE, grids=[(2, 3)])
    assert not any(plan.gathered for plan in plans)


VOLUMES = ["masked", "one_hot", "take_along_dim", "median", "cosine_similarity", "hypot", "any"]
VOLUMES += ["largest_of_all", "tensordot", "scatter", "float_power"]


@pytest.mark.long
@pytest.mark.parametrize("operator", VOLUMES)
def test_an_operator_on_a_volume_is_tiled(operator):
    def on_volume(x):
        if operator == "one_hot":
            return F.one_hot((x[:, 0] > 0).long(), 2).movedim(4, 1).to(x)
        return OPERATORS[operator](x)

    check_tiled(Call(on_volume), (1, 4, 4, 6, 5), grids=[(2, 1, 2)])
