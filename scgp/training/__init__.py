"""What train() needs: the loop, its losses and processes, and what is fitted on held-out data."""
