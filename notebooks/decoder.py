"""Memory and error of a decoder: untiled, with diffusers' own tiles, and on four ranks of spnb.

The decoder is that of diffusers' AutoencoderKL, with its published widths and random weights; the
latent is noise.  Each way runs in processes of its own.  A peak is the most memory of a process
above that after its imports, and an error is a share of the output's scale::

    python notebooks/decoder.py 96
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL

import spnb
from spnb.runtime.process_memory import bytes_before_any_network, peak_bytes

TYPES = {"fp32": torch.float32, "fp64": torch.float64}


@dataclass(frozen=True)
class Decoding:
    """What is decoded, and by what.

    Attributes
    ----------
    size
        Height and width of the latent.
    precision
        ``"fp32"`` or ``"fp64"``.
    widths
        Channels of the decoder's blocks, the last block first; each but one doubles the image.
    tile
        Height and width of the tiles of the latent that diffusers' `enable_tiling` cuts.
    """

    size: int
    precision: str = "fp32"
    widths: Sequence[int] = (128, 256, 512, 512)
    tile: int = 64

    def autoencoder(self) -> AutoencoderKL:
        """The network, without the encoder."""
        torch.manual_seed(0)
        count = len(self.widths)
        vae = AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * count,
            up_block_types=["UpDecoderBlock2D"] * count,
            block_out_channels=list(self.widths),
            layers_per_block=2,
            sample_size=self.tile * 2 ** (count - 1),
        )
        del vae.encoder
        return vae.eval().type(TYPES[self.precision])

    def latent(self) -> torch.Tensor:
        """Normally distributed numbers, always the same."""
        generator = torch.Generator().manual_seed(0)
        shape = (1, 4, self.size, self.size)
        return torch.randn(shape, generator=generator).to(TYPES[self.precision])

    def job(self) -> spnb.Job:
        """The same on four ranks."""
        return spnb.Job(
            self.autoencoder(),
            method="decode",
            input_shapes=[(1, 4, self.size, self.size)],
            split_size=1,
            num_spatial_parts=4,
            precision=self.precision,
        )


def alone(decoding: Decoding, tiled: bool) -> tuple[int, torch.Tensor]:
    """Decode in one new process, at once or in diffusers' tiles; return its peak and the image."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "decoded.pt"
        options = ["--precision", decoding.precision, "--tile", str(decoding.tile)]
        options += ["--widths", *map(str, decoding.widths), "--write", str(file)]
        line = [sys.executable, __file__, str(decoding.size), *options, *["--tiled"] * tiled]
        subprocess.run(line, check=True)
        return torch.load(file)


def write(decoding: Decoding, tiled: bool, file: str) -> None:
    """Decode in this process; write its peak and the image."""
    idle = bytes_before_any_network()
    vae = decoding.autoencoder()
    if tiled:
        vae.enable_tiling()
    with torch.inference_mode():
        image = vae.decode(decoding.latent()).sample
    torch.save((peak_bytes() - idle, image), file)


def on_ranks(decoding: Decoding) -> tuple[int, torch.Tensor]:
    """Decode on four ranks; return the largest peak of a rank, and the image."""
    with spnb.Cluster(spnb.plan(decoding.job()), progress=False) as cluster:
        result = cluster.infer(decoding.latent())
        return int(result.per_rank.peak_memory_bytes.max()), result.output["sample"]


def error(image: torch.Tensor, untiled: torch.Tensor) -> float:
    """The largest difference, as a share of the output's scale."""
    return float((image - untiled).abs().max() / untiled.abs().max())


def main() -> None:
    """Decode in all three ways, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("size", type=int, help="height and width of the latent")
    parser.add_argument("--precision", choices=TYPES, default="fp32")
    parser.add_argument("--widths", type=int, nargs="+", default=Decoding.widths)
    parser.add_argument("--tile", type=int, default=Decoding.tile)
    parser.add_argument("--tiled", action="store_true", help="in diffusers' tiles")
    parser.add_argument("--write", metavar="FILE", help="decode only in this process")
    given = vars(parser.parse_args())
    tiled, file = given.pop("tiled"), given.pop("write")
    decoding = Decoding(**given)
    if file:
        return write(decoding, tiled, file)
    most, untiled = alone(decoding, tiled=False)
    print(f"untiled: peak {most / 2**20:,.0f} MiB")
    for name, (peak, image) in {
        "enable_tiling()": alone(decoding, tiled=True),
        "a rank of spnb": on_ranks(decoding),
    }.items():
        share = f"peak {peak / 2**20:,.0f} MiB, {peak / most:.2f} of the untiled one"
        print(f"{name}: {share}; error {error(image, untiled):.1e}")


if __name__ == "__main__":
    main()
