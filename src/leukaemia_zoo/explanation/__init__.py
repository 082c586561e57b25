"""Where in a cell a network finds what it says: maps, pictures of them, and how much of a map lies on the cell."""
