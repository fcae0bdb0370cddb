"""Networks of the packages that requirements.txt installs: MONAI and transformers."""

import os

from other_network import Other

os.environ["HF_HUB_OFFLINE"] = "1"


def monai():
    """MONAI's networks; imported where one is made, since MONAI takes ten seconds."""
    import monai.networks.nets as found

    return found


HIDDEN = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
TOKENS = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
WINDOWS = {"embed_dim": 12, "depths": [2, 2], "num_heads": [2, 2]}


def of_monai(name, make, size, **options):
    return Other("MONAI", name, make, size, **options)


def of_transformers(name, config, size, **options):
    """A model with a small configuration of its own class."""

    def make():
        import transformers

        model = getattr(transformers, name)
        return model(model.config_class(**config))

    return Other("transformers", name, make, size, **options)


EFFICIENT = "efficientnet-b0"
INSTALLED = [
    of_monai("UNet", lambda: monai().UNet(2, 3, 2, (8, 16, 32), (2, 2), num_res_units=2), (60, 92)),
    of_monai(
        "AttentionUnet", lambda: monai().AttentionUnet(2, 3, 2, (8, 16, 32), (2, 2)), (52, 68)
    ),
    of_monai("SegResNet", lambda: monai().SegResNet(2, 8, 3, 2), (56, 72)),
    of_monai("DenseNet121", lambda: monai().DenseNet121(2, 3, 5), (97, 131)),
    of_monai("EfficientNet-B0", lambda: monai().EfficientNetBN(EFFICIENT, False), (97, 131)),
    of_monai(
        "DynUNet",
        lambda: monai().DynUNet(2, 3, 2, [3] * 4, [1, 2, 2, 2], [2] * 3, res_block=True),
        (56, 72),
    ),
    of_monai("BasicUNet", lambda: monai().BasicUNet(2, 3, 2, (8, 8, 16, 32, 64, 8)), (50, 67)),
    of_monai("HighResNet", lambda: monai().HighResNet(2, 3, 2), (41, 53)),
    of_monai(
        "SwinUNETR",
        lambda: monai().SwinUNETR(3, 2, feature_size=12, spatial_dims=2),
        (64, 96),
    ),
    of_monai(
        "UNet, 3-D", lambda: monai().UNet(3, 1, 2, (4, 8, 16), (2, 2)), (20, 28, 24), channels=1
    ),
    of_transformers("ResNetForImageClassification", {"embedding_size": 8} | HIDDEN, (97, 131)),
    of_transformers("ConvNextV2ForImageClassification", HIDDEN, (97, 131)),
    of_transformers(
        "RegNetForImageClassification", {"embedding_size": 8, "groups_width": 8} | HIDDEN, (97, 131)
    ),
    of_transformers("MobileNetV2ForImageClassification", {}, (97, 131)),
    of_transformers("MobileNetV2ForSemanticSegmentation", {}, (97, 131)),
    of_transformers(
        "SegformerForSemanticSegmentation",
        {"hidden_sizes": [8, 16, 24, 32], "depths": [1] * 4, "decoder_hidden_size": 16},
        (97, 131),
    ),
    of_transformers(
        "Swin2SRForImageSuperResolution", {"window_size": 8, "upscale": 2} | WINDOWS, (40, 56)
    ),
    of_transformers("SwinModel", {"window_size": 4} | WINDOWS, (97, 131)),
    of_transformers(
        "ViTForImageClassification",
        {"image_size": (48, 64), "patch_size": 8, "intermediate_size": 32} | TOKENS,
        (48, 64),
    ),
    of_transformers(
        "Dinov2WithRegistersForImageClassification",
        {"image_size": 56, "patch_size": 8, "mlp_ratio": 2} | TOKENS,
        (48, 64),
    ),
    of_transformers(
        "DPTForDepthEstimation",
        {"image_size": 64, "patch_size": 16, "intermediate_size": 32, "is_hybrid": False}
        | {"backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [8] * 4}
        | {"fusion_hidden_size": 8}
        | TOKENS
        | {"num_hidden_layers": 4},
        (64, 64),
    ),
    of_transformers(
        "HieraForImageClassification",
        {"image_size": [64, 96], "embed_dim": 8, "depths": [1] * 4, "num_heads": [1, 1, 2, 2]},
        (64, 96),
    ),
    of_transformers(
        "MobileViTModel",
        {
            "image_size": 128,
            "hidden_sizes": [16, 24, 32],
            "neck_hidden_sizes": [8, 8, 16, 16, 24, 32, 32],
            "num_attention_heads": 2,
        },
        (128, 128),
    ),
    of_transformers(
        "PvtV2Model",
        {"hidden_sizes": [8, 16, 24, 32], "depths": [1] * 4, "num_attention_heads": [1, 2, 2, 4]},
        (96, 128),
    ),
    of_transformers(
        "CvtModel",
        {"embed_dim": [8, 16, 32], "num_heads": [1, 2, 2], "depth": [1, 2, 3]},
        (96, 128),
    ),
    of_transformers(
        "LevitModel",
        {
            "image_size": 128,
            "hidden_sizes": [16, 32, 48],
            "num_attention_heads": [2, 2, 2],
            "depths": [1, 1, 1],
            "key_dim": [8, 8, 8],
        },
        (128, 128),
    ),
    of_transformers("SuperPointForKeypointDetection", {}, (97, 131), channels=1),
]
