"""DICOM files of a few pixels, written for tests."""

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid


def write_slice(
    path: Path,
    *,
    series: str,
    patient: str,
    height: float,
    number: int,
    hounsfield: int,
    modality: str = "CT",
) -> None:
    """Write one slice of 8 x 8 equal values."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, generate_uid()
    data.PatientID, data.PatientName = patient, "Secret^Name"
    data.SeriesInstanceUID, data.Modality, data.BodyPartExamined = series, modality, "CHEST"
    data.InstanceNumber = number
    data.ImagePositionPatient = [0, 0, height]
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.Rows = data.Columns = 8
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 1
    data.RescaleIntercept, data.RescaleSlope = 0, 1
    data.PixelData = np.full((8, 8), hounsfield, np.int16).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, data, enforce_file_format=True)
