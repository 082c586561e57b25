"""Several models on the same cells: judged, compared, timed."""
