"""Files of HDF5, NIfTI and DICOM: what their libraries read, and one line if one is missing."""

import sys

import numpy as np
import pytest
from torch import nn

import spnb
from spnb.io.open import open_source
from spnb.ir.region import Region

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (3, 40, 60), np.uint8)


def whole(source):
    return source.read(Region.whole((source.shape[0], *source.shape[2:])))


def same_everywhere(source, expected):
    """A source is an array, also where only a part of it is read."""
    assert source.shape == expected.shape
    assert np.array_equal(whole(source), expected)
    spans = [(n // 3, n // 3 + max(1, n // 4)) for n in (expected.shape[0], *expected.shape[2:])]
    batch, *box = (slice(*span) for span in spans)
    assert np.array_equal(source.read(Region(tuple(spans))), expected[(batch, slice(None), *box)])


# ---------------------------------------------------------------- HDF5


@pytest.fixture
def hdf5(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "scans.h5", "w") as file:
        file.create_dataset("left/eye", data=IMAGE, chunks=(1, 16, 32), compression="gzip")
        file["right"] = IMAGE.transpose(1, 2, 0)
    return tmp_path / "scans.h5"


@pytest.mark.parametrize("name", ["/left/eye", "left/eye", "/right"])
def test_a_dataset_of_hdf5(hdf5, name):
    source = open_source(f"{hdf5}:{name}")
    same_everywhere(source, IMAGE[None] / np.float32(255))
    if "left" in name:
        assert (source.chunk_rows, source.chunk_columns) == (16, 32)


def test_ranks_read_hdf5(hdf5):
    net = nn.Conv2d(3, 2, 3, padding=1)
    job = spnb.Job(net, image_size=(40, 60), batch_size=1, split_size=1, num_spatial_parts=4)
    assert spnb.InProcess(spnb.plan(job)).infer(f"{hdf5}:/left/eye").check().passed


def test_a_dataset_that_is_not_named(hdf5):
    with pytest.raises(ValueError, match=r"holds 2 datasets \(/left/eye, /right\): name one, as"):
        open_source(hdf5)
    with pytest.raises(ValueError, match=r"no dataset /up \(/left/eye, /right\)"):
        open_source(f"{hdf5}:/up")
    h5py = pytest.importorskip("h5py")
    with h5py.File(hdf5.with_name("one.h5"), "w") as file:
        file["only"] = IMAGE
    assert open_source(hdf5.with_name("one.h5")).shape == (1, 3, 40, 60)


def test_a_dataset_behind_a_link(hdf5):
    h5py = pytest.importorskip("h5py")
    with h5py.File(hdf5, "a") as file:
        file["soft"] = h5py.SoftLink("/left/eye")
        file["dangling"] = h5py.SoftLink("/up")
    same_everywhere(open_source(f"{hdf5}:/soft"), IMAGE[None] / np.float32(255))
    with pytest.raises(ValueError, match="no dataset /dangling"):
        open_source(f"{hdf5}:/dangling")


def test_a_dataset_of_another_file(tmp_path):
    np.save(tmp_path / "a.npy", IMAGE)
    with pytest.raises(ValueError, match="only files of HDF5 have datasets: leave out :/x"):
        open_source(f"{tmp_path / 'a.npy'}:/x")


# ---------------------------------------------------------------- NIfTI


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
@pytest.mark.parametrize(
    ("shape", "channels", "axes", "expected"),
    [
        ((12, 14, 9), 1, 3, (1, 1, 12, 14, 9)),
        ((12, 14, 9, 1), 1, 3, (1, 1, 12, 14, 9)),
        ((12, 14, 9, 1, 2), 2, 3, (1, 2, 12, 14, 9)),
        ((12, 14, 1), 1, 2, (1, 1, 12, 14)),
        ((12, 14, 9), 1, None, (1, 1, 12, 14, 9)),
    ],
)
def test_a_nifti(tmp_path, name, shape, channels, axes, expected):
    nibabel = pytest.importorskip("nibabel")
    stored = RNG.integers(-1000, 1000, shape).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(stored, np.eye(4)), tmp_path / name)
    source = open_source(tmp_path / name, channels=channels, axes=axes)
    numbers = np.moveaxis(stored.reshape(*shape[:3], channels), -1, 0)[None].astype(np.float32)
    same_everywhere(source, numbers.reshape(expected))


def test_a_nifti_with_more_axes_than_an_image(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    stored = np.zeros((6, 7, 8, 2, 3), np.int16)
    nibabel.save(nibabel.Nifti1Image(stored, np.eye(4)), tmp_path / "scan.nii")
    with pytest.raises(ValueError, match=r"scan.nii has shape \(6, 7, 8, 2, 3\): give an array"):
        open_source(tmp_path / "scan.nii", channels=3, axes=3)


def test_a_nifti_that_is_rescaled(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.Nifti1Image(RNG.normal(size=(6, 7, 8)), np.eye(4))
    image.set_data_dtype(np.int16)
    nibabel.save(image, tmp_path / "scan.nii")
    expected = nibabel.load(tmp_path / "scan.nii").get_fdata().astype(np.float32)
    same_everywhere(open_source(tmp_path / "scan.nii", channels=1, axes=3), expected[None, None])


# ---------------------------------------------------------------- DICOM


def write_dicom(path, stored, **elements):
    pytest.importorskip("pydicom")
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(path, {}, file_meta=meta, preamble=bytes(128))
    data.SOPClassUID = CTImageStorage
    data.Rows, data.Columns = stored.shape[-2:] if stored.shape[-1] != 3 else stored.shape[-3:-1]
    data.SamplesPerPixel = 3 if stored.shape[-1] == 3 else 1
    data.PhotometricInterpretation = "RGB" if stored.shape[-1] == 3 else "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 8 * stored.itemsize
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(stored.dtype.kind == "i")
    if data.SamplesPerPixel == 3:
        data.PlanarConfiguration = 0
    for name, value in elements.items():
        setattr(data, name, value)
    data.PixelData = stored.tobytes()
    data.save_as(path, enforce_file_format=True)
    return path


def test_a_dicom_in_units(tmp_path):
    stored = RNG.integers(0, 4096, (20, 30)).astype(np.uint16)
    units = {"RescaleSlope": 2, "RescaleIntercept": -1024}
    source = open_source(write_dicom(tmp_path / "ct.dcm", stored, **units), channels=1)
    same_everywhere(source, (stored * np.float32(2) - 1024)[None, None])


@pytest.mark.parametrize("white", ["MONOCHROME1", "MONOCHROME2"])
def test_a_dicom_of_12_bits(tmp_path, white):
    stored = RNG.integers(0, 4096, (20, 30)).astype(np.uint16)
    elements = {"BitsStored": 12, "HighBit": 11, "PhotometricInterpretation": white}
    source = open_source(write_dicom(tmp_path / "image", stored, **elements), channels=1)
    expected = stored[None, None] / np.float32(4095)
    same_everywhere(source, 1 - expected if white == "MONOCHROME1" else expected)


def test_frames_and_colours_of_a_dicom(tmp_path):
    frames = RNG.integers(-99, 99, (5, 20, 30)).astype(np.int16)
    path = write_dicom(tmp_path / "frames.dcm", frames, NumberOfFrames=5)
    same_everywhere(open_source(path, channels=1, axes=3), frames[None, None].astype(np.float32))
    same_everywhere(open_source(path, channels=1), frames[:, None].astype(np.float32))
    colours = IMAGE.transpose(1, 2, 0)
    path = write_dicom(tmp_path / "rgb.dcm", colours)
    same_everywhere(open_source(path), IMAGE[None] / np.float32(255))


# ---------------------------------------------------------------- without the libraries


@pytest.mark.parametrize(
    ("library", "name", "start"),
    [
        ("h5py", "a.h5:/x", b"\x89HDF\r\n\x1a\n"),
        ("nibabel", "a.nii", bytes(344) + b"n+1\0"),
        ("pydicom", "a.dcm", bytes(128) + b"DICM"),
    ],
)
def test_a_library_that_is_missing(tmp_path, monkeypatch, library, name, start):
    monkeypatch.setitem(sys.modules, library, None)
    (tmp_path / name.split(":")[0]).write_bytes(start + bytes(4096))
    with pytest.raises(ValueError, match=rf"cannot read .*needs the package {library}.*: pip inst"):
        open_source(tmp_path / name)
