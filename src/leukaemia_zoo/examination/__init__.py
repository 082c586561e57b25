"""From fields of a smear, and whole slides, to a verdict on each white cell, with pictures and tables of them."""
