"""Programs of the same kind as the scorer service, to measure beside it."""
