"""A folder that holds no model is told as what it is."""

from pathlib import Path

import pytest

from medllava.errors import SetupError
from medllava.model.sources import read_config, reading_weights


def test_a_folder_without_a_model_is_said_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"no config.json: .*Name a folder that .*train"):
        read_config(str(tmp_path))
    step = tmp_path / "checkpoints/step-3"
    step.mkdir(parents=True)
    with pytest.raises(SetupError, match=r"training is not finished: .* name .*step-3\.$"):
        read_config(str(tmp_path))


def test_an_option_and_a_setting_are_named_as_they_are_given(tmp_path: Path) -> None:
    with (
        pytest.raises(SetupError, match=r"\(--ckpt\): it is broken\. .* with --ckpt FOLDER\.$"),
        reading_weights("a/b", key="--ckpt"),
    ):
        raise OSError("it is broken.\nsecond line")
    with pytest.raises(SetupError, match=r"with --set model\.x\.source=FOLDER\.$"):  # noqa: SIM117
        with reading_weights(str(tmp_path / "gone"), key="model.x.source"):
            pass
