import io
import logging
import sys
import warnings
import zlib
from pathlib import Path

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


PICTURES = Path(__file__).parents[2] / "fixtures" / "pictures"


def test_an_empty_window_is_no_window():
    pixels = np.asarray(load_image(PICTURES / "empty_window.dcm"))
    assert np.ptp(pixels) > 200


def test_a_window_of_width_one_is_a_step_at_its_center():
    stored = pydicom.dcmread(PICTURES / "width_one.dcm").pixel_array
    pixels = np.asarray(load_image(PICTURES / "width_one.dcm"))[..., 0]
    assert np.array_equal(pixels, np.where(stored >= 2048, 255, 0))


def test_a_pixel_aspect_ratio_stretches_the_rows():
    assert load_image(PICTURES / "aspect_2_1.dcm").size == (256, 16)


@pytest.mark.parametrize(
    "keyword", ["PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"]
)
def test_every_spacing_counts(keyword: str):
    assert load_image(saved(make(RAMP, **{keyword: [2.0, 1.0]}))).size == (20, 20)
    assert load_image(saved(make(RAMP, **{keyword: [1.0, 4.0]}))).size == (80, 10)


def test_distances_at_the_patient_win_over_those_at_the_detector():
    dataset = make(RAMP, PixelSpacing=[1.0, 1.0], ImagerPixelSpacing=[2.0, 1.0])
    assert load_image(saved(dataset)).size == (20, 10)


def test_an_empty_spacing_is_passed_over():
    dataset = make(RAMP, PixelSpacing=None, ImagerPixelSpacing=[2.0, 1.0])
    assert load_image(saved(dataset)).size == (20, 20)


def test_each_window_function_follows_its_formula():
    values = RAMP.astype(float)
    center, width = 40.0, 101.0
    formulas = {
        "LINEAR": (values - (center - 0.5)) / (width - 1) + 0.5,
        "LINEAR_EXACT": (values - center) / width + 0.5,
        "SIGMOID": 1 / (1 + np.exp(-4 * (values - center) / width)),
    }
    for function, wanted in formulas.items():
        data = saved(
            make(RAMP, WindowCenter=[center, 0], WindowWidth=[width, 5], VOILUTFunction=function)
        )
        assert np.array_equal(grey(data), np.rint(np.clip(wanted, 0, 1) * 255)), function


def test_an_inverse_presentation_shape_turns_once_with_and_without_monochrome1():
    plain = grey(saved(make(RAMP)))
    for kind, shape in (
        ("MONOCHROME2", "INVERSE"),
        ("MONOCHROME1", "INVERSE"),
        ("MONOCHROME1", "IDENTITY"),
    ):
        shown = grey(saved(make(RAMP, kind, PresentationLUTShape=shape)))
        assert np.array_equal(shown, 255 - plain), (kind, shape)
    same = grey(saved(make(RAMP, PresentationLUTShape="IDENTITY")))
    assert np.array_equal(same, plain)


def table(entries: list[int], first: int, bits: int) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries), first, bits])
    item.add_new("LUTData", "US", entries)
    return item


def test_a_table_maps_values_and_takes_its_ends_beyond():
    values = np.array([[-100, 0, 1, 2, 3, 500]])
    dataset = make(values, VOILUTSequence=Sequence([table([0, 1000, 2000, 4095], 0, 12)]))
    wanted = np.rint(np.array([[0, 0, 1000, 2000, 4095, 4095]]) / 4095 * 255)
    assert np.array_equal(grey(saved(dataset)), wanted)


def test_a_table_stands_in_for_an_empty_window():
    values = np.array([[0, 1, 2, 3]])
    tables = Sequence([table([9, 6, 3, 0], 0, 8)])
    dataset = make(values, WindowCenter=None, WindowWidth=None, VOILUTSequence=tables)
    assert grey(saved(dataset)).tolist() == [[9, 6, 3, 0]]


def test_a_modality_table_comes_before_the_window():
    values = np.array([[0, 1, 2, 3]])
    dataset = make(values, WindowCenter=100.5, WindowWidth=201, WindowCenterWidthExplanation="x")
    dataset.ModalityLUTSequence = Sequence([table([200, 100, 50, 0], 0, 16)])
    dataset.ModalityLUTSequence[0].ModalityLUTType = "US"
    shown = grey(saved(dataset))[0]
    assert (np.diff(shown.astype(int)) < 0).all()


def test_an_empty_slope_leaves_values_as_they_are():
    dataset = make(RAMP, RescaleSlope=None, RescaleIntercept=None)
    assert np.array_equal(grey(saved(dataset)), grey(saved(make(RAMP))))


def test_an_overlay_in_unused_bits_is_not_shown():
    values = np.tile(np.arange(0, 4096, 16), (8, 1))
    clean = make(values, BitsStored=12, HighBit=11, PixelRepresentation=0)
    marked = make(values | 0x8000, BitsStored=12, HighBit=11, PixelRepresentation=0)
    assert np.array_equal(grey(saved(clean)), grey(saved(marked)))


def test_a_segmented_palette_is_in_color():
    path = get_testdata_file("gdcm-US-ALOKA-16.dcm", download=False)
    if path is None:
        pytest.skip("pydicom-data is not installed")
    image = load_image(path)
    assert image.size == (640, 480)
    pixels = np.asarray(image).astype(int)
    assert (np.ptp(pixels, axis=2) > 20).sum() > 500


def test_compressed_pixels_without_a_stated_syntax_are_recognized():
    for name in ("MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"):
        dataset = pydicom.dcmread(get_testdata_file(name, download=False))
        known = np.asarray(dicom_module.render_dataset(dataset, name=name))
        del dataset.file_meta.TransferSyntaxUID
        guessed = np.asarray(dicom_module.render_dataset(dataset, name=name))
        assert np.array_equal(known, guessed), name


def test_a_stretched_claim_cannot_grow_beyond_the_limit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dicom_module, "MAX_PIXELS", 400)
    image = load_image(saved(make(RAMP, PixelSpacing=[40.0, 1.0])))
    assert image.width * image.height <= 400


def _all_files() -> list[Path]:
    import importlib.util

    roots = [Path(pydicom.__file__).parent / "data" / "test_files"]
    brought = importlib.util.find_spec("data_store")
    if brought is not None and brought.submodule_search_locations:
        roots.append(Path(brought.submodule_search_locations[0]) / "data")
    return sorted(file for root in roots for file in root.rglob("*.dcm"))


def _outcome(render) -> np.ndarray | str:
    try:
        return np.asarray(render())
    except Exception as error:  # noqa: BLE001 - that it fails is what is compared
        return type(error).__name__


def test_the_tags_that_are_read_show_what_the_whole_file_shows():
    """Of all files that pydicom brings: a tag left out of the list would show another picture."""
    shown = 0
    for path in _all_files():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ours = _outcome(lambda path=path: load_image(path))
            whole = _outcome(
                lambda path=path: dicom_module.render_dataset(
                    pydicom.dcmread(path, force=True), name="whole"
                )
            )
        if isinstance(whole, str):
            assert isinstance(ours, str), path.name
        else:
            assert np.array_equal(ours, whole), path.name
            shown += 1
    assert shown >= 70
