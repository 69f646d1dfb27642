"""Names, dates and numbers in DICOM tags, by the basic profile of PS3.15.

Only that a tag is filled is told, never what it says. A file that declares its identity removed
(0012,0062) may keep dummies where the profile allows them; what it removes is found anyway.
"""

import io
from pathlib import Path
from typing import Any

from medllava.errors import SetupError
from medllava.images.dicom import INSTALL, is_dicom
from medllava.privacy.findings import Finding, Kind

_DUMMY_ALLOWED = frozenset(
    [
        "AccessionNumber",
        "AcquisitionDate",
        "AcquisitionDateTime",
        "AcquisitionTime",
        "ClinicalTrialProtocolID",
        "ClinicalTrialSponsorName",
        "ClinicalTrialSubjectID",
        "ClinicalTrialSubjectReadingID",
        "ContentCreatorName",
        "ContentDate",
        "ContentTime",
        "ConsultingPhysicianName",
        "FillerOrderNumberImagingServiceRequest",
        "InstitutionName",
        "OperatorsName",
        "PatientBirthDate",
        "PatientID",
        "PatientName",
        "PersonName",
        "PlacerOrderNumberImagingServiceRequest",
        "ReferringPhysicianName",
        "ReviewerName",
        "SeriesDate",
        "SeriesTime",
        "StudyDate",
        "StudyID",
        "StudyTime",
        "VerifyingObserverName",
        "AuthorObserverSequence",
        "DeviceSerialNumber",
    ]
)
"""Actions Z, D and their mixtures: emptied or replaced."""

_REMOVED = frozenset(
    [
        "AcquisitionComments",
        "AdditionalPatientHistory",
        "AdmissionID",
        "AdmittingDate",
        "AdmittingTime",
        "AdmittingDiagnosesDescription",
        "Allergies",
        "AuthorObserverSequence",
        "BranchOfService",
        "ClinicalTrialSiteID",
        "ClinicalTrialSiteName",
        "CommentsOnThePerformedProcedureStep",
        "ContributionDescription",
        "CountryOfResidence",
        "CurrentPatientLocation",
        "CustodialOrganizationSequence",
        "DischargeDiagnosisDescription",
        "DistributionAddress",
        "DistributionName",
        "EthnicGroup",
        "FrameComments",
        "HumanPerformerName",
        "HumanPerformerOrganization",
        "IdentifyingComments",
        "ImageComments",
        "InstitutionAddress",
        "InstitutionalDepartmentName",
        "InsurancePlanIdentification",
        "IntendedRecipientsOfResultsIdentificationSequence",
        "InterpretationApproverSequence",
        "InterpretationAuthor",
        "InterpretationRecorder",
        "InterpretationTranscriber",
        "IssuerOfAdmissionID",
        "IssuerOfPatientID",
        "IssuerOfServiceEpisodeID",
        "MedicalAlerts",
        "MedicalRecordLocator",
        "MilitaryRank",
        "NameOfPhysiciansReadingStudy",
        "NamesOfIntendedRecipientsOfResults",
        "Occupation",
        "OrderCallbackPhoneNumber",
        "OrderCallbackTelecomInformation",
        "OrderEnteredBy",
        "OrderEntererLocation",
        "OtherPatientIDs",
        "OtherPatientIDsSequence",
        "OtherPatientNames",
        "PatientAddress",
        "PatientBirthName",
        "PatientBirthTime",
        "PatientComments",
        "PatientInstitutionResidence",
        "PatientInsurancePlanCodeSequence",
        "PatientMotherBirthName",
        "PatientReligiousPreference",
        "PatientTelecomInformation",
        "PatientTelephoneNumbers",
        "PerformedLocation",
        "PerformingPhysicianName",
        "PersonAddress",
        "PersonTelecomInformation",
        "PersonTelephoneNumbers",
        "PhysicianApprovingInterpretation",
        "PhysiciansOfRecord",
        "PhysiciansReadingStudyIdentificationSequence",
        "ReasonForVisit",
        "ReferringPhysicianAddress",
        "ReferringPhysicianTelephoneNumbers",
        "RegionOfResidence",
        "RequestingPhysician",
        "RequestingService",
        "ResponsibleOrganization",
        "ResponsiblePerson",
        "ResultsComments",
        "ScheduledHumanPerformersSequence",
        "ScheduledPatientInstitutionResidence",
        "ScheduledPerformingPhysicianName",
        "ServiceEpisodeDescription",
        "ServiceEpisodeID",
        "StationName",
        "StudyComments",
        "TextComments",
        "TextString",
        "VerifyingOrganization",
        "VisitComments",
    ]
)
"""Action X: taken out of the file."""


def find_in_tags(source: Path | bytes) -> list[Finding]:
    """Return the filled tags of a DICOM file that the basic profile empties; nothing of others.

    Args:
        source: path or bytes of a file of any kind.

    Raises:
        SetupError: it is DICOM, and pydicom is not installed.

    Source: DICOM PS3.15 table E.1-1, basic profile; PS3.3 C.7.1.1 and C.7.6.1.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as handle:
        if not is_dicom(handle.read(256)):
            return []
        handle.seek(0)
        try:
            import pydicom  # noqa: PLC0415 - an extra
        except ImportError:
            name = "the bytes given" if isinstance(source, bytes) else source
            raise SetupError(f"reading DICOM needs an extra: {name}. Run: {INSTALL}") from None
        dataset = pydicom.dcmread(handle, force=True, stop_before_pixels=True)
    is_declared = str(dataset.get("PatientIdentityRemoved") or "").upper() == "YES"
    found = {
        name: Finding(kind=Kind.TAG, where=name)
        for name in _filled_tags(dataset)
        if not (is_declared and name in _DUMMY_ALLOWED)
    }
    if str(dataset.get("BurnedInAnnotation") or "").upper() == "YES":
        found["BurnedInAnnotation"] = Finding(kind=Kind.BURNED_IN, where="BurnedInAnnotation")
    return list(found.values())


def _filled_tags(dataset: Any) -> list[str]:  # noqa: ANN401 - pydicom is untyped
    """Return the keywords (or numbers) of filled private-to-a-person tags, in sequences too."""
    names = []
    for element in dataset.iterall():
        is_person = element.VR == "PN"
        if not is_person and element.keyword not in _DUMMY_ALLOWED | _REMOVED:
            continue
        if element.VR == "SQ":
            continue  # what it holds is visited by itself
        text = str(element.value if element.value is not None else "").strip(" ^=[]'\0")
        if text:
            names.append(element.keyword or str(element.tag))
    return names
