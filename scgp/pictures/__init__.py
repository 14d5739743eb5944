"""What pl draws of the verbs."""
