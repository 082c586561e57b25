"""A page on one's own machine: cells dropped, verdicts seen."""
