"""Many images, methods and modes into one table; the stored results and where they come from."""

from moxi_lite.study.provenance import (
    counted,
    environment,
    now,
    provenance_of,
    publishable,
    write_json,
)
from moxi_lite.study.run import StudyResult, run_study
from moxi_lite.study.settings import STUDY_METHODS, checked_names
from moxi_lite.study.store import SCHEMA, StudyFolder, concatenate, parquet_bytes
from moxi_lite.study.stored import (
    FOLDER_VARIABLE,
    StoredStudy,
    stored_result,
    stored_study,
    study_curves,
    study_explanation,
)

__all__ = [
    "FOLDER_VARIABLE",
    "SCHEMA",
    "STUDY_METHODS",
    "StoredStudy",
    "StudyFolder",
    "StudyResult",
    "checked_names",
    "concatenate",
    "counted",
    "environment",
    "now",
    "parquet_bytes",
    "provenance_of",
    "publishable",
    "run_study",
    "stored_result",
    "stored_study",
    "study_curves",
    "study_explanation",
    "write_json",
]
