import io
import logging
import sys
import warnings
import zlib

import numpy as np
import pytest

from medllava.errors import DataError, SetupError
from medllava.images import dicom as dicom_module
from medllava.images.load import load_image

pydicom = pytest.importorskip("pydicom")
from pydicom.data import get_testdata_file  # noqa: E402
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.sequence import Sequence  # noqa: E402
from pydicom.uid import (  # noqa: E402
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    generate_uid,
)


def make(values: np.ndarray, kind: str = "MONOCHROME2", **elements) -> Dataset:
    """A plain file: (rows, columns) or (frames, rows, columns) of int16."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.PatientName = "Roe^Jane"
    dataset.PatientBirthDate = "19700101"
    dataset.Rows, dataset.Columns = values.shape[-2:]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = kind
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 1
    if values.ndim == 3:
        dataset.NumberOfFrames = len(values)
    dataset.PixelData = values.astype("<i2").tobytes()
    for name, value in elements.items():
        setattr(dataset, name, value)
    return dataset


def saved(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def grey(data: bytes, **options) -> np.ndarray:
    return np.asarray(load_image(data, **options))[..., 0]


RAMP = np.arange(-100, 300, 2).reshape(10, 20)


def test_rescale_and_the_files_window_are_applied():
    dataset = make(RAMP, RescaleSlope=2, RescaleIntercept=-50, WindowCenter=150.5, WindowWidth=201)
    shown = grey(saved(dataset))
    low, high = 50, 250  # centre - 0.5 -+ (width - 1) / 2, by the standard's formula
    expected = np.clip((RAMP * 2 - 50 - low) / (high - low), 0, 1) * 255
    assert np.abs(shown - expected).max() <= 0.5


def test_the_users_window_wins_over_the_files():
    dataset = make(RAMP, WindowCenter=0, WindowWidth=10)
    assert np.array_equal(
        grey(saved(dataset), window=(100, 400)), grey(saved(make(RAMP)), window=(100, 400))
    )


def test_monochrome1_is_shown_inverted():
    plain = grey(saved(make(RAMP)))
    assert np.array_equal(grey(saved(make(RAMP, "MONOCHROME1"))), 255 - plain)


def test_padding_does_not_decide_the_range():
    padded = RAMP.copy()
    padded[:, :8] = -2000
    shown = grey(saved(make(padded, PixelPaddingValue=-2000)))
    assert shown[0, 0] == 0
    assert shown[:, 8:].max() - shown[:, 8:].min() == 255
    assert grey(saved(make(padded)))[:, 8:].min() > 200  # without the tag, the padding does


def test_the_sigmoid_window_and_the_lookup_table_are_honoured():
    sigmoid = make(RAMP, WindowCenter=100, WindowWidth=100, VOILUTFunction="SIGMOID")
    shown = grey(saved(sigmoid))
    assert np.abs(shown - 255 / (1 + np.exp(-4 * (RAMP - 100) / 100))).max() <= 0.51
    table = Dataset()
    table.LUTDescriptor = [4, 0, 16]
    table.LUTData = np.array([0, 65535, 2570, 5140], "<u2").tobytes()
    looked_up = make(np.array([[0, 1], [2, 3]]), VOILUTSequence=Sequence([table]))
    looked_up.PixelRepresentation = 0
    assert grey(saved(looked_up)).tolist() == [[0, 255], [10, 20]]


def test_the_middle_frame_is_shown_unless_one_is_asked_for():
    frames = np.stack([np.full((4, 4), i * 100) for i in range(3)])
    frames[:, 0, 0], frames[:, 0, 1] = 0, 400
    data = saved(make(frames))
    shown = {i: int(grey(data, frame=i, window=(200, 400))[2, 2]) for i in range(3)}
    assert shown[0] < shown[1] < shown[2]
    assert grey(data, window=(200, 400))[2, 2] == shown[1]
    with pytest.raises(DataError, match="no frame 3; the file has 3"):
        load_image(data, frame=3)


def test_an_enhanced_files_frame_brings_its_own_rescale_and_window():
    def groups(slope: float) -> Dataset:
        transform, voi, item = Dataset(), Dataset(), Dataset()
        transform.RescaleSlope, transform.RescaleIntercept = slope, 0
        transform.RescaleType = "US"
        voi.WindowCenter, voi.WindowWidth = 100.5, 201
        item.PixelValueTransformationSequence = Sequence([transform])
        item.FrameVOILUTSequence = Sequence([voi])
        return item

    frames = np.full((2, 3, 3), 50)
    dataset = make(frames, PerFrameFunctionalGroupsSequence=Sequence([groups(1), groups(3)]))
    data = saved(dataset)
    assert grey(data, frame=0)[0, 0] == 64  # 50 of 0..200
    assert grey(data, frame=1)[0, 0] == 191  # 150 of 0..200


def test_pixels_that_are_not_square_are_stretched():
    assert load_image(saved(make(RAMP, PixelSpacing=[2.0, 1.0]))).size == (20, 20)


@pytest.mark.parametrize(
    "name",
    [
        "CT_small.dcm",
        "MR_small.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_RLE.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "JPEGLSNearLossless_16.dcm",
        "JPGExtended.dcm",
        "SC_rgb_jpeg_dcmtk.dcm",
        "SC_rgb_rle_16bit_2frame.dcm",
        "SC_ybr_full_422_uncompressed.dcm",
        "examples_palette.dcm",
        "image_dfl.dcm",
        "rtdose.dcm",
    ],
)
def test_real_files_of_every_common_compression_are_read(name: str):
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip("this pydicom does not bring the file")
    image = load_image(path)
    extrema = image.getextrema()
    assert max(high for _, high in extrema) - min(low for low, _ in extrema) > 60


def test_compressions_of_one_image_agree():
    plain, *others = (
        np.asarray(load_image(get_testdata_file(name, download=False)))
        for name in (
            "MR_small.dcm",
            "MR_small_RLE.dcm",
            "MR_small_jp2klossless.dcm",
            "MR_small_jpeg_ls_lossless.dcm",
            "MR_small_bigendian.dcm",
        )
    )
    assert all(np.array_equal(plain, other) for other in others)


@pytest.mark.parametrize("name", ["reportsi.dcm", "rtplan.dcm", "waveform_ecg.dcm"])
def test_a_file_without_a_picture_says_so(name: str):
    with pytest.raises(DataError, match="holds no picture"):
        load_image(get_testdata_file(name, download=False))


def test_patient_fields_are_neither_kept_nor_told(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    dataset = make(RAMP)
    image = load_image(saved(dataset))
    assert image.info == {}
    broken = make(RAMP)
    broken.PixelData = b"\0\0"
    data = saved(broken)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with pytest.raises(DataError) as caught:
            load_image(data)
    text = f"{caught.value} {caplog.text} {[str(w.message) for w in told]}"
    assert "Roe" not in text
    assert "1970" not in text


def test_cut_files_are_data_errors():
    data = saved(make(RAMP))
    for length in range(140, len(data) - 1, 37):
        with pytest.raises(DataError):
            load_image(data[:length])


def test_a_huge_claim_is_refused_before_decoding():
    dataset = make(RAMP)
    dataset.Rows = dataset.Columns = 60_000
    with pytest.raises(DataError, match="60,000 x 60,000"):
        load_image(saved(dataset))


def test_a_deflated_bomb_is_refused(monkeypatch: pytest.MonkeyPatch):
    dataset = make(np.zeros((200, 200)))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data = saved(dataset)
    assert load_image(data).size == (200, 200)
    monkeypatch.setattr(dicom_module, "MAX_BYTES", 10_000)
    monkeypatch.setattr(zlib, "decompress", None)  # pydicom must not get to see it
    with pytest.raises(DataError, match="unpacks to more"):
        load_image(data)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    data = saved(make(RAMP))
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(SetupError, match=r"medllava\[dicom\]"):
        load_image(data)
