"""Images of single cells, the table of them, its readers, and splits by subject."""
