"""What is already known: the reference index, its evidence and the decision."""
