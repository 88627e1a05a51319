"""The records that stages hand each other: model, metrics, cost, training log, chosen options, times.

Each is a class that alone knows the keys of its file. `read` checks types and ranges, and that a record
belongs to its folder, and raises `UnreadableRecord` with a sentence; `write` leaves a whole file or the old
one. The manifest of a dataset is in `common/datasets/manifest.py` and the record of a failure in
`common/failures.py`, for rooms below this one.
"""

from common.runs.records.cost import Cost, TrainingPart
from common.runs.records.load import Load
from common.runs.records.log import (
    VALIDATION,
    AnyLine,
    LogLine,
    ValidationLine,
    log_line,
    read_log,
    read_validations,
)
from common.runs.records.scores import (
    LATER,
    ControlMetrics,
    Metrics,
    PredictionsSource,
    Reliability,
    Scores,
)
from common.runs.records.times import JobTimes
from common.runs.records.training import TrainedModel, TrainedModelFacts, read_tensors, state_sha256
from common.runs.records.tuning import Chosen, Trial

__all__ = [
    "LATER",
    "VALIDATION",
    "AnyLine",
    "Chosen",
    "ControlMetrics",
    "Cost",
    "JobTimes",
    "Load",
    "LogLine",
    "Metrics",
    "PredictionsSource",
    "Reliability",
    "Scores",
    "TrainedModel",
    "TrainedModelFacts",
    "TrainingPart",
    "Trial",
    "ValidationLine",
    "log_line",
    "read_log",
    "read_tensors",
    "read_validations",
    "state_sha256",
]
