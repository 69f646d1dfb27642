import gzip
import sys
from pathlib import Path

import numpy as np
import pytest

from medllava.errors import DataError, SetupError
from medllava.images import nifti as nifti_module
from medllava.images.load import load_image

nibabel = pytest.importorskip("nibabel")
from nibabel.orientations import (  # noqa: E402
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    ornt_transform,
)

SHAPE = (5, 7, 9)  # right-left, back-front, foot-head


def canonical() -> np.ndarray:
    """A volume that is bright at its right front top corner, dark elsewhere."""
    volume = np.zeros(SHAPE, dtype=np.int16)
    volume[:, :, :] = np.arange(SHAPE[2])[None, None, :]
    volume[-1, -1, :] += 50
    return volume


def saved(volume: np.ndarray, codes: str = "RAS", affine: np.ndarray | None = None) -> bytes:
    affine = np.eye(4) if affine is None else affine
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    stored = apply_orientation(volume, turn)
    return nibabel.Nifti1Image(stored, affine @ inv_ornt_aff(turn, volume.shape)).to_bytes()


def grey(data: bytes, **options) -> np.ndarray:
    return np.asarray(load_image(data, window=(30, 60), **options))[..., 0]


def test_each_plane_is_turned_as_radiologists_look_at_it():
    data = saved(canonical())
    axial = grey(data, plane="axial")
    assert axial.shape == (7, 5)
    assert axial.argmax() == 0  # front on top, the patient's right on the left
    coronal = grey(data, plane="coronal", slice_index=6)
    assert coronal.shape == (9, 5)
    assert coronal.argmax() == 0  # head on top
    sagittal = grey(data, plane="sagittal", slice_index=4)
    assert sagittal.shape == (9, 7)
    assert sagittal.argmax() == 0  # front on the left


@pytest.mark.parametrize("codes", ["LPS", "LAS", "PSR", "SAL", "IPR", "AIL"])
@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_the_order_a_scanner_wrote_makes_no_difference(codes: str, plane: str):
    for index in (0, 2):
        expected = grey(saved(canonical()), plane=plane, slice_index=index)
        assert np.array_equal(
            grey(saved(canonical(), codes), plane=plane, slice_index=index), expected
        )


def test_gzip_and_plain_agree_and_the_middle_is_the_default():
    data = saved(canonical())
    assert np.array_equal(grey(gzip.compress(data)), grey(data))
    assert np.array_equal(grey(data), grey(data, slice_index=SHAPE[2] // 2))


def test_a_time_point_is_chosen():
    series = np.stack([canonical(), canonical() + 5], axis=-1)
    data = nibabel.Nifti1Image(series, np.eye(4)).to_bytes()
    assert (grey(data, frame=1).astype(int) >= grey(data, frame=0)).all()
    assert not np.array_equal(grey(data, frame=1), grey(data, frame=0))
    with pytest.raises(DataError, match="no frame 2; there are 2"):
        load_image(data, frame=2)


def test_long_voxels_are_stretched_to_squares():
    data = saved(canonical(), affine=np.diag([1.0, 1.0, 3.0, 1.0]))
    assert load_image(data, plane="coronal").size == (5, 27)
    assert load_image(data, plane="axial").size == (5, 7)


def test_nifti2_is_read():
    data = nibabel.Nifti2Image(canonical(), np.eye(4)).to_bytes()
    assert np.array_equal(grey(data), grey(saved(canonical())))


def test_a_real_volume_is_read():
    path = Path(nibabel.__file__).parent / "tests" / "data" / "anatomical.nii"
    if not path.exists():
        pytest.skip("this nibabel does not bring the file")
    image = load_image(path)
    assert image.size[0] > 20
    assert image.getextrema()[0] == (0, 255)


def test_wrong_slices_planes_and_volumes_are_named():
    data = saved(canonical())
    with pytest.raises(DataError, match="no axial slice 9; there are 9"):
        load_image(data, slice_index=9)
    with pytest.raises(DataError, match="no plane 'oblique'"):
        load_image(data, plane="oblique")
    with pytest.raises(DataError, match="no frame 1"):
        load_image(data, frame=1)
    with pytest.raises(DataError, match=r"shape \(4, 4\)"):
        load_image(nibabel.Nifti1Image(np.zeros((4, 4), np.int16), np.eye(4)).to_bytes())
    with pytest.raises(DataError, match="must hold a NIfTI"):
        load_image(gzip.compress(b"not a volume" * 50))


def test_cut_volumes_are_data_errors():
    data = saved(canonical())
    for length in (349, 352, 400):
        with pytest.raises(DataError):
            load_image(data[:length])
    with pytest.raises(DataError, match="damaged"):
        load_image(gzip.compress(data)[:60])


def test_a_gzip_bomb_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(nifti_module, "MAX_BYTES", 500)
    with pytest.raises(DataError, match="unpacks to more"):
        load_image(gzip.compress(saved(canonical())))


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    data = saved(canonical())
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(SetupError, match=r"medllava\[nifti\]"):
        load_image(data)


PICTURES = Path(__file__).parents[2] / "fixtures" / "pictures"


def test_a_color_volume_is_shown_in_color():
    volume = nibabel.load(PICTURES / "rgb.nii")
    stored = np.asarray(volume.dataobj)[:, :, 4]
    wanted = np.stack([stored[channel] for channel in "RGB"], axis=-1)
    pixels = np.asarray(load_image(PICTURES / "rgb.nii"))
    assert np.array_equal(pixels, wanted.transpose(1, 0, 2)[::-1, ::-1])


def test_a_transparent_voxel_lies_on_white():
    kind = np.dtype([(channel, "u1") for channel in "RGBA"])
    values = np.zeros((4, 4, 4), dtype=kind)
    values["R"], values["A"] = 200, 255
    values["A"][0] = 0
    data = nibabel.Nifti1Image(values, np.eye(4)).to_bytes()
    pixels = np.asarray(load_image(data))
    assert pixels[0, -1].tolist() == [255, 255, 255]
    assert pixels[0, 0].tolist() == [200, 0, 0]


def test_a_scale_in_the_header_is_applied_before_the_window():
    volume = nibabel.Nifti1Image(np.arange(64, dtype=np.int16).reshape(4, 4, 4), np.eye(4))
    volume.header.set_slope_inter(2.0, -1000.0)
    data = volume.to_bytes()
    plain = np.asarray(volume.dataobj)[:, :, 2] * 1.0
    units = plain * 2.0 - 1000.0
    low, high = units.min() - 1, units.max() + 1
    shown = np.asarray(load_image(data, window=((low + high) / 2, high - low)))[..., 0]
    wanted = np.rint((units - low) / (high - low) * 255)
    assert np.abs(shown - wanted.T[::-1, ::-1]).max() <= 1


@pytest.mark.parametrize("cut", [1, 100])
def test_a_volume_that_ends_early_is_refused_though_its_slice_is_there(cut: int):
    data = saved(canonical())
    with pytest.raises(DataError, match="ends too early"):
        load_image(data[:-cut], slice_index=0)
    packed = gzip.compress(data)
    with pytest.raises(DataError, match="ends too early"):
        load_image(packed[:-cut], slice_index=0)
