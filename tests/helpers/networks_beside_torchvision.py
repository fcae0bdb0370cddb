"""Networks of the packages in tests/networks.txt: timm, spandrel and diffusers.

Each package is imported where its first network is made, because the imports take seconds.
"""

import os
from importlib import import_module

from other_network import Other
from torchvision_stand_in import torchvision_stand_in

os.environ["HF_HUB_OFFLINE"] = "1"

ONE_EACH = {"depths": (1, 1, 1, 1)}
HEADS = {"num_heads": (1, 2, 3, 4)}
WIDTHS = {"embed_dims": (8, 16, 24, 32)}
TOKENS = {"embed_dim": 32, "depth": 2, "num_heads": 2}
DOUBLED = {"upscale": 2}
BLOCKS = {"block_out_channels": (8, 16), "norm_num_groups": 4}
CODING = BLOCKS | {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}
CROSS_ATTENTION = BLOCKS | {
    "in_channels": 3,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "cross_attention_dim": 12,
}
TIME, TEXT = (1,), (1, 7, 12)


def _imported(module):
    with torchvision_stand_in():
        return import_module(module)


def of_timm(name, options, size, **how):
    """A registered model, or a class of a module, as ``"volo.VOLO"``."""
    module, _, of_module = name.rpartition(".")

    def make():
        if module:
            return getattr(_imported(f"timm.models.{module}"), of_module)(**options)
        return _imported("timm").create_model(name, **options)

    return Other("timm", of_module, make, size, **how)


def of_spandrel(name, options, size, module=None, **how):
    """A class of an architecture; ``module`` says where, if its name is not the architecture's."""

    def make():
        found = _imported(f"spandrel.architectures.{module or name}")
        return getattr(found, name)(**options)

    return Other("spandrel", name, make, size, **how)


def of_diffusers(name, options, size, *further_inputs, **how):
    """A model, with the inputs that it takes beside the image."""

    def make():
        return getattr(import_module("diffusers"), name)(**options)

    return Other("diffusers", name, make, size, further_inputs=further_inputs, **how)


BESIDE_TORCHVISION = [
    of_timm("edgenext_xx_small", {"dims": (8, 16, 24, 32), "depths": (1, 1, 2, 2)}, (96, 128)),
    of_timm("fastvit_t8", {"layers": (1, 1, 1, 1), "embed_dims": (8, 16, 32, 64)}, (96, 128)),
    of_timm("mambaout_femto", {"dims": (8, 16, 24, 32)} | ONE_EACH, (96, 128)),
    of_timm("inception_next_tiny", {"dims": (16, 32, 48, 64)} | ONE_EACH, (96, 128)),
    of_timm("skresnet18", {"layers": (1, 1, 1, 1)}, (97, 131)),
    of_timm("twins_svt_small", WIDTHS | HEADS | {"depths": (1, 1, 2, 1)}, (96, 128)),
    of_timm("xcit_nano_12_p8_224", TOKENS, (64, 96)),
    of_timm("vit_small_patch16_dinov3", {"img_size": (64, 96)} | TOKENS, (64, 96)),
    of_timm("beit_base_patch16_224", {"img_size": (48, 64), "patch_size": 8} | TOKENS, (48, 64)),
    of_timm(
        "samvit_base_patch16",
        {"img_size": (64, 96), "patch_size": 8, "window_size": 3, "global_attn_indexes": (1,)}
        | TOKENS,
        (64, 96),
    ),
    of_timm(
        "coatnet_nano_rw_224",
        {"img_size": 128, "embed_dim": (32, 32, 64, 64)} | ONE_EACH,
        (128, 128),
    ),
    of_timm(
        "coat_lite_tiny",
        {"img_size": (64, 96), "embed_dims": (16,) * 4, "serial_depths": (1, 1, 1, 1)},
        (64, 96),
    ),
    of_timm("focalnet.FocalNet", {"embed_dim": 8} | ONE_EACH, (96, 128)),
    of_timm(
        "volo.VOLO",
        {"img_size": 64, "layers": (1, 1, 1, 1), "embed_dims": (16, 32, 32, 32)}
        | {"num_heads": (1, 2, 2, 2), "mlp_ratio": 2}
        | {"outlook_attention": (True, False, False, False)},
        (64, 64),
    ),
    of_timm(
        "cait_xxs24_224",
        {"img_size": (48, 64), "patch_size": 8} | TOKENS,
        (48, 64),
    ),
    of_timm(
        "efficientformerv2_s0",
        {"img_size": (128, 128), "embed_dims": (16, 16, 32, 32), "depths": (1, 1, 2, 2)},
        (128, 128),
    ),
    of_timm(
        "convit_tiny",
        {"img_size": 64, "patch_size": 8, "local_up_to_layer": 1} | TOKENS,
        (64, 64),
    ),
    of_timm(
        "mlp_mixer.MlpMixer",
        {"img_size": 64, "patch_size": 8, "embed_dim": 16, "num_blocks": 2},
        (64, 64),
    ),
    of_spandrel(
        "RRDBNet",
        {"num_filters": 8, "num_blocks": 1, "scale": 2},
        (41, 53),
        "ESRGAN.__arch.RRDB",
    ),
    of_spandrel("NAFNet", {"width": 8, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]}, (41, 53)),
    of_spandrel("OmniSR", {"num_feat": 16, "up_scale": 2}, (40, 56)),
    of_spandrel(
        "HAT",
        {"img_size": 32, "embed_dim": 12, "depths": (2,), "num_heads": (2,), "window_size": 8}
        | {"upsampler": "pixelshuffle", "compress_ratio": 3, "squeeze_factor": 3}
        | DOUBLED,
        (40, 56),
    ),
    of_spandrel(
        "DAT",
        {"img_size": 32, "embed_dim": 16, "depth": [2], "num_heads": [2], "split_size": [4, 8]}
        | DOUBLED,
        (32, 48),
    ),
    of_spandrel(
        "FFTformer", {"dim": 8, "num_blocks": [1, 1, 1], "num_refinement_blocks": 1}, (64, 64)
    ),
    of_spandrel(
        "RealPLKSR",
        {"dim": 16, "n_blocks": 1, "upscaling_factor": 2, "dysample": True},
        (41, 53),
        "PLKSR",
        gather=True,
    ),
    of_spandrel(
        "RestoreFormer",
        {"n_embed": 16, "embed_dim": 32, "ch": 32, "ch_mult": (1, 2), "num_res_blocks": 1}
        | {"attn_resolutions": (16,), "resolution": 32, "z_channels": 32, "head_size": 2},
        (32, 48),
        "RestoreFormer.__arch.restoreformer_arch",
    ),
    of_spandrel(
        "FFCResNetGenerator",
        {"input_nc": 4, "output_nc": 3, "ngf": 8, "n_blocks": 2},
        (32, 48),
        "LaMa.__arch.LaMa",
        gather=True,
        further_inputs=((1, 1, 32, 48),),
    ),
    of_diffusers("AutoencoderKL", CODING, (32, 48)),
    of_diffusers(
        "UNet2DModel",
        {
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
            "layers_per_block": 1,
        }
        | BLOCKS,
        (24, 40),
        TIME,
    ),
    of_diffusers(
        "UNet2DConditionModel",
        CROSS_ATTENTION | {"up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")},
        (24, 40),
        TIME,
        TEXT,
    ),
    of_diffusers(
        "ControlNetModel",
        CROSS_ATTENTION | {"conditioning_embedding_out_channels": (4, 8)},
        (24, 40),
        TIME,
        TEXT,
        (1, 3, 48, 80),
    ),
    of_diffusers(
        "SD3Transformer2DModel",
        {"sample_size": 16, "num_layers": 1, "attention_head_dim": 8, "num_attention_heads": 2}
        | {"in_channels": 4, "out_channels": 4, "pos_embed_max_size": 16}
        | {"joint_attention_dim": 12, "caption_projection_dim": 16, "pooled_projection_dim": 8},
        (16, 24),
        TEXT,
        (1, 8),
        TIME,
        channels=4,
    ),
]
