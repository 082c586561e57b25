"""Every number about a model: metrics, intervals over subjects, calibration, thresholds, baselines."""
