"""Many images, methods and modes into one table; the stored results and where they come from."""

from moxi_lite.study.images import describe_images
from moxi_lite.study.provenance import (
    commit,
    counted,
    environment,
    now,
    processor,
    provenance_of,
    publishable,
    write_json,
)
from moxi_lite.study.run import StudyResult, run_study
from moxi_lite.study.settings import STUDY_METHODS, checked_names, samples_by_curve
from moxi_lite.study.store import SCHEMA, StudyFolder, concatenate, parquet_bytes
from moxi_lite.study.stored import FOLDER_VARIABLE, StoredStudy, stored_result, stored_study
from moxi_lite.study.tables import study_curves, study_explanation
from moxi_lite.study.worker import greedy_order

__all__ = [
    "FOLDER_VARIABLE",
    "SCHEMA",
    "STUDY_METHODS",
    "StoredStudy",
    "StudyFolder",
    "StudyResult",
    "checked_names",
    "commit",
    "concatenate",
    "counted",
    "describe_images",
    "environment",
    "greedy_order",
    "now",
    "parquet_bytes",
    "processor",
    "provenance_of",
    "publishable",
    "run_study",
    "samples_by_curve",
    "stored_result",
    "stored_study",
    "study_curves",
    "study_explanation",
    "write_json",
]
