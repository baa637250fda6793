"""Many images, methods and modes into one table; the stored results."""

from moxi_lite.study.images import describe_images
from moxi_lite.study.run import StudyResult, run_study
from moxi_lite.study.settings import METHODS, checked_names, make_settings, samples_by_curve
from moxi_lite.study.store import StudyFolder, concatenate, parquet_bytes, provenance_of
from moxi_lite.study.stored import FOLDER_VARIABLE, StoredStudy, stored_result, stored_study
from moxi_lite.study.tables import study_curves, study_explanation
from moxi_lite.study.worker import environment, greedy_order

__all__ = [
    "FOLDER_VARIABLE",
    "METHODS",
    "StoredStudy",
    "StudyFolder",
    "StudyResult",
    "checked_names",
    "concatenate",
    "describe_images",
    "environment",
    "greedy_order",
    "make_settings",
    "parquet_bytes",
    "provenance_of",
    "run_study",
    "samples_by_curve",
    "stored_result",
    "stored_study",
    "study_curves",
    "study_explanation",
]
