"""Every number about a model: metrics, intervals over subjects, calibration, thresholds, baselines."""

from typing import TYPE_CHECKING

from leukaemia_zoo._names import lazily

if TYPE_CHECKING:
    from leukaemia_zoo.evaluation.baselines import area_baseline, cell_area
    from leukaemia_zoo.evaluation.calibration import (
        apply_temperature,
        calibration_slope_intercept,
        expected_calibration_error,
        fit_temperature,
        reliability,
    )
    from leukaemia_zoo.evaluation.intervals import Bootstrap, Interval, bootstrap_over_subjects, paired_difference
    from leukaemia_zoo.evaluation.judgement import judge
    from leukaemia_zoo.evaluation.metrics import called_classes, per_subject

__getattr__, __dir__, __all__ = lazily(__name__)
