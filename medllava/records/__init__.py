"""What travels between rooms. Rooms on one level never import each other; they meet here.

Each record is a frozen dataclass with a `to_json` dict and a strict `from_json`: `items` the things
on the data's route, `run` and `report` the files that train and eval leave for others, `summary`
what a step hands back, `base` how all of them are read and written.
"""

from medllava.records.base import Record, VersionedRecord
from medllava.records.items import (
    IMAGE_TOKEN,
    OWN,
    AnswerType,
    FigureRecord,
    InstructionRecord,
    Modality,
    Prediction,
    PreferenceRecord,
    ProbePrediction,
    Question,
    Source,
    Split,
    Stage,
    Turn,
    is_own,
)
from medllava.records.report import (
    BootstrapRecord,
    DecodingRecord,
    Estimate,
    Estimates,
    EvalReport,
    ModelRecord,
    TaskRecord,
)
from medllava.records.run import (
    FROM_PARTS,
    DataRecord,
    InitRecord,
    MachineRecord,
    MixtureRecord,
    PackingRecord,
    PartRecord,
    RunRecord,
    StepSummary,
)

__all__ = [
    "FROM_PARTS",
    "IMAGE_TOKEN",
    "OWN",
    "AnswerType",
    "BootstrapRecord",
    "DataRecord",
    "DecodingRecord",
    "Estimate",
    "Estimates",
    "EvalReport",
    "FigureRecord",
    "InitRecord",
    "InstructionRecord",
    "MachineRecord",
    "MixtureRecord",
    "Modality",
    "ModelRecord",
    "PackingRecord",
    "PartRecord",
    "Prediction",
    "PreferenceRecord",
    "ProbePrediction",
    "Question",
    "Record",
    "RunRecord",
    "Source",
    "Split",
    "Stage",
    "StepSummary",
    "TaskRecord",
    "Turn",
    "VersionedRecord",
    "is_own",
]
