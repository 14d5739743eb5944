"""What explain() and its kin ask of one cell."""
