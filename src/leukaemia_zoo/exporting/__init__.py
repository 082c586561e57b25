"""Networks as one file for other programs, each run and compared before it is handed over."""
