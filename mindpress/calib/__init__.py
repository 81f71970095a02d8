"""What a model sees while it is calibrated, and what is learned from it."""
