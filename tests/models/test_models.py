"""The built-in networks: shapes, sizes known from elsewhere, and signals that keep their scale."""

import io
import math

import pytest
import torch

from spnb.models import build, names
from spnb.models.amoebanet import FactorizedReduction
from spnb.models.resnet import conv

SMALL_AMOEBANET = {"num_layers": 6, "num_filters": 64}
NETWORKS = [
    pytest.param("resnet20_v1", {}, id="resnet20_v1"),
    pytest.param("resnet29_v2", {}, id="resnet29_v2"),
    pytest.param("resnet", {}, id="resnet"),
    pytest.param("resnet50", {}, id="resnet50"),
    pytest.param("amoebanet", SMALL_AMOEBANET, id="amoebanet"),
]
every_network = pytest.mark.parametrize("name, options", NETWORKS)


def seeded(name, options, seed=0):
    torch.manual_seed(seed)
    return build(name, **options).eval()


def images(*size, seed=1):
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(65, 97), (18, 31), (1, 9)])
def test_a_unet_answers_for_every_pixel_of_any_image(size):
    with torch.inference_mode():
        assert seeded("unet", {"num_classes": 7})(images(*size)).shape == (2, 7, *size)


@every_network
@pytest.mark.parametrize("size", [(65, 97), (18, 31)])
def test_any_image_size(name, options, size):
    network = seeded(name, {**options, "num_classes": 7})
    with torch.inference_mode():
        assert network(images(*size)).shape == (2, 7)


@pytest.mark.parametrize(
    "name, options, count",
    [
        # Keras' examples print 274,442, 849,002 and 3,323,210, running statistics included.
        ("resnet20_v1", {}, 273_066),
        ("resnet29_v2", {}, 843_786),
        ("resnet", {}, 3_302_442),
        ("resnet110_v2", {}, 3_302_442),
        # torchvision's documentation
        ("resnet50", {"num_classes": 1000}, 25_557_032),
        ("resnet101", {"num_classes": 1000}, 44_549_160),
    ],
)
def test_number_of_parameters(name, options, count):
    with torch.device("meta"):
        network = build(name, **options)
    assert sum(p.numel() for p in network.parameters()) == count


@pytest.mark.parametrize(
    "layers, filters, millions",
    # torchgpipe's table, for 1000 classes; GPipe's has 82M, 318M, 542M and 1.05B.
    [(18, 208, 81.5), (18, 416, 319.0), (18, 544, 542.7)],
)
def test_number_of_parameters_of_amoebanet(layers, filters, millions):
    with torch.device("meta"):
        network = build("amoebanet", num_classes=1000, num_layers=layers, num_filters=filters)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 1) == millions


@pytest.mark.parametrize("depth, blocks", [(50, (3, 4, 6, 3)), (101, (3, 4, 23, 3))])
def test_state_dict_has_the_names_of_torchvision(depth, blocks):
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    conv_norm = lambda conv, bn: [f"{conv}.weight", *(f"{bn}.{key}" for key in norm)]  # noqa: E731
    expected = conv_norm("conv1", "bn1")
    for stage, count in enumerate(blocks, start=1):
        for block in range(count):
            path = f"layer{stage}.{block}"
            for n in (1, 2, 3):
                expected += conv_norm(f"{path}.conv{n}", f"{path}.bn{n}")
            if block == 0:
                expected += conv_norm(f"{path}.downsample.0", f"{path}.downsample.1")
    expected += ["fc.weight", "fc.bias"]
    with torch.device("meta"):
        weights = build(f"resnet{depth}").state_dict()
    assert list(weights) == expected
    assert weights["layer2.0.conv2.weight"].shape == (128, 128, 3, 3)
    assert weights["layer3.0.downsample.0.weight"].shape == (1024, 512, 1, 1)


@pytest.mark.parametrize(
    "name, options",
    [
        *NETWORKS,
        ("resnet101", {}),
        ("resnet218_v1", {}),
        ("amoebanet", {"num_layers": 18, "num_filters": 64}),
        ("amoebanet", {"num_layers": 36, "num_filters": 32}),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_signals_keep_their_scale_with_fresh_statistics(name, options, seed):
    with torch.inference_mode():
        logits = seeded(name, options, seed)(images(33, 49))
    largest = logits.abs().amax(1)
    assert torch.isfinite(logits).all() and (largest > 1e-2).all() and (largest < 1e2).all()
    # Not only the last layer's bias: the two images differ.
    assert (logits[0] - logits[1]).abs().max() > 1e-3


def test_weights_have_the_scale_of_he():
    torch.manual_seed(0)
    for gain in (1.0, 0.5):
        weight = conv(64, 256, 3, gain=gain).weight
        assert weight.std().item() == pytest.approx(gain * math.sqrt(2 / (64 * 9)), rel=0.01)
        assert abs(weight.mean()) < 0.01 * weight.std()


@every_network
def test_weights_follow_the_seed(name, options):
    one, same, other = (seeded(name, options, seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not any(torch.equal(one[k], other[k]) for k in one if one[k].dim() == 4)


@every_network
def test_state_dict_round_trip(name, options):
    network, x = seeded(name, options), images(33, 33)
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    again = seeded(name, options, seed=9)
    again.load_state_dict(torch.load(file, weights_only=True))
    with torch.inference_mode():
        assert torch.equal(again(x), network(x))


@pytest.mark.slow(but_each=3)
@pytest.mark.long
@every_network
def test_export_on_the_meta_device(name, options):
    with torch.device("meta"):
        network, x = build(name, **options).eval(), torch.empty(2, 3, 4097, 1025)
        program = torch.export.export(network, (x,), strict=False)
    *_, output = program.graph.nodes
    assert output.args[0][0].meta["val"].shape == (2, 10)
    assert {str(t) for t in calls(program)} <= {
        f"aten.{op}"
        for op in (
            "conv2d.default",
            "batch_norm.default",
            "relu.default",
            "add.Tensor",
            "cat.default",
            "pad.default",
            "max_pool2d.default",
            "avg_pool2d.default",
            "adaptive_avg_pool2d.default",
            "flatten.using_ints",
            "linear.default",
        )
    }


def calls(program):
    return [node.target for node in program.graph.nodes if node.op == "call_function"]


@pytest.mark.slow(but_each=3)
@pytest.mark.long
@every_network
def test_exported_program_is_exact(name, options):
    network, x = seeded(name, options), images(33, 49)
    with torch.no_grad():
        assert torch.equal(torch.export.export(network, (x,)).module()(x), network(x))


@pytest.mark.parametrize(
    "name, options, blocks",
    [
        ("resnet20_v1", {}, 9),
        ("resnet", {}, 36),
        ("resnet50", {}, 16),
        ("amoebanet", SMALL_AMOEBANET, 10),
    ],
)
def test_blocks_are_called_one_after_another(name, options, blocks):
    network, called = seeded(name, options), []
    containers = [network, *(c for c in network if isinstance(c, torch.nn.Sequential))]
    children = [child for c in containers for child in c if child not in containers]
    for module in children:
        module.register_forward_hook(lambda module, *_: called.append(module))
    with torch.inference_mode():
        network(images(17, 17))
    order = {path: n for n, (path, _) in enumerate(network.named_modules())}
    path = {module: path for path, module in network.named_modules()}
    assert [path[m] for m in called] == sorted((path[m] for m in children), key=order.get)
    assert sum(any(m.children()) and not path[m].startswith("stem") for m in called) == blocks


def test_amoebanet_trains():
    network = seeded("amoebanet", {"num_layers": 3, "num_filters": 16}).train()
    network(images(33, 33)).sum().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None]
    assert not without


def test_factorized_reduction_reads_all_positions():
    layer = FactorizedReduction(1, 2).eval()
    for half in (layer.even, layer.odd):
        torch.nn.init.ones_(half.weight)
    x = torch.arange(1.0, 36.0).reshape(1, 1, 5, 7)
    even, odd = layer(x)[0] * math.sqrt(1 + layer.bn.eps)
    torch.testing.assert_close(even, x[0, 0, ::2, ::2])
    assert (odd[-1] == 0).all() and (odd[:, -1] == 0).all()
    torch.testing.assert_close(odd[:-1, :-1], x[0, 0, 1::2, 1::2])


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("resnet21_v1", {}, "resnet21_v1: depth 21 is not 6n+2; the nearest are 20 and 26"),
        ("resnet112_v2", {}, "resnet112_v2: depth 112 is not 9n+2; the nearest are 110 and 119"),
        ("resnet2_v1", {}, "resnet2_v1: depth 2 is not 6n+2; the least is 8"),
        ("resnet0_v2", {}, "resnet0_v2: depth 0 is not 9n+2; the least is 11"),
        (
            "amoebanet",
            {"num_layers": 7},
            "amoebanet: num_layers 7 is not a positive multiple of 3; the nearest are 6 and 9",
        ),
        (
            "amoebanet",
            {"num_layers": 0},
            "amoebanet: num_layers 0 is not a positive multiple of 3; the least is 3",
        ),
        (
            "amoebanet",
            {"num_filters": 7},
            "amoebanet: num_filters 7 is too small; the least is 8",
        ),
        (
            "resnet34",
            {},
            "unknown model 'resnet34'; there are resnet, resnet<D>_v1, resnet<D>_v2, resnet50,"
            " resnet101, unet, amoebanet, w1, w2, w3",
        ),
    ],
)
def test_refusals_say_what_there_is(name, options, message):
    with pytest.raises(ValueError) as refusal:
        build(name, **options)
    assert str(refusal.value) == message


def test_least_sizes_work():
    for name, options in [
        ("resnet8_v1", {}),
        ("resnet11_v2", {}),
        ("amoebanet", {"num_layers": 3, "num_filters": 8}),
        ("amoebanet", {"num_layers": 3, "num_filters": 19}),
    ]:
        with torch.inference_mode():
            assert seeded(name, options)(images(1, 1)).shape == (2, 10)


@pytest.mark.long
def test_names_are_of_networks_that_can_be_built():
    with torch.device("meta"):
        for name, text in names():
            build(name.replace("<D>", "20"))
            assert text and "\n" not in text
