"""A folder of DICOM files is one picture or several, the same at every door."""

from pathlib import Path

import numpy as np
import pytest
from dicom_files import write_slice
from PIL import Image
from pydicom.uid import generate_uid

from medllava.chat.config import ViewConfig
from medllava.chat.exchange import open_image, open_images
from medllava.images.limits import ImageError
from medllava.images.load import load_image, load_series
from medllava.images.series import CT_WINDOWS, SLICES, find_dicom, find_series


def study(folder: Path, *, slices: int, modality: str = "CT", uid: str = "") -> Path:
    """Slices whose names and numbers run against their heights; each is 4 units denser."""
    uid = uid or generate_uid()
    for i in range(slices):
        write_slice(
            folder / f"{slices - i:02}.dcm",
            series=uid,
            patient="MRN-1",
            height=float(i),
            number=slices - i,
            hounsfield=i * 4,
            modality=modality,
        )
    return folder


def value(image: Image.Image, channel: int = 2) -> int:
    return int(np.asarray(image)[0, 0, channel])


def test_a_folder_is_the_middle_slice_of_its_series(tmp_path: Path):
    folder = study(tmp_path / "ct", slices=20)
    middle = load_image(folder)
    assert middle.tobytes() == load_image(str(folder), frame=10).tobytes()
    shades = [value(load_image(folder, frame=n)) for n in range(20)]
    assert shades == sorted(shades)
    assert shades[0] < shades[-1]
    one = load_image(folder / "10.dcm", window=CT_WINDOWS[2])  # slice 10 by height
    assert value(middle) == value(one)


def test_chat_shows_the_slices_that_training_saw_each_to_be_opened_again(tmp_path: Path):
    folder = study(tmp_path / "ct", slices=20)
    shown = open_images(str(folder), ViewConfig())
    assert len(shown) == SLICES
    numbers = [number for number, _ in load_series(folder)]
    assert [view.frame for view, _ in shown] == numbers == [0, 3, 5, 8, 11, 14, 16, 19]
    for view, image in shown:
        assert open_image(str(folder), view).tobytes() == image.tobytes()
    ((_, single),) = open_images(str(folder), ViewConfig(frame=4))
    assert value(single) == value(load_image(folder, frame=4))


def test_a_window_of_the_users_wins_over_the_three(tmp_path: Path):
    folder = study(tmp_path / "ct", slices=3)
    for _, image in load_series(folder, window=(4.0, 9.0)):
        assert len({value(image, channel) for channel in range(3)}) == 1
    gray = study(tmp_path / "mr", slices=3, modality="MR")
    assert all(len({value(i, c) for c in range(3)}) == 1 for _, i in load_series(gray))


def test_frames_of_one_file_are_a_series(tmp_path: Path):
    import pydicom

    path = tmp_path / "cine" / "a.dcm"
    write_slice(path, series="1.2.3", patient="P", height=0, number=1, hounsfield=0, modality="US")
    data = pydicom.dcmread(path)
    data.NumberOfFrames = 12
    data.PixelData = b"".join(np.full((8, 8), 20 * f, np.int16).tobytes() for f in range(12))
    data.save_as(path)
    (series,) = find_series(find_dicom(path.parent))
    assert len(series.slices) == 12
    shades = [value(image) for _, image in load_series(path.parent, window=(110, 220))]
    assert shades == sorted(shades)
    assert len(set(shades)) == SLICES


def test_what_is_no_single_series_is_refused_by_name(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="this is a folder, not an image"):
        load_image(tmp_path / "empty")
    study(tmp_path / "two" / "a", slices=1)
    study(tmp_path / "two" / "b", slices=1)
    with pytest.raises(ImageError, match=r"2 DICOM series .*a.*b"):
        load_image(tmp_path / "two")
    folder = study(tmp_path / "ct", slices=3)
    with pytest.raises(ImageError, match="no slice 3 of 3"):
        load_image(folder, frame=3)
