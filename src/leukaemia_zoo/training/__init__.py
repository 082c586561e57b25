"""From labelled cells to a network and its judgement on people whom it has never seen."""
