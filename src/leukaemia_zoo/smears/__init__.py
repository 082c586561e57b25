"""From a field of a smear to single cells on black, and the same stain for all."""
