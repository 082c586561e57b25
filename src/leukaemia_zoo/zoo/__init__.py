"""The networks and their weights: what exists, where it is found, how it is built, kept and published."""
