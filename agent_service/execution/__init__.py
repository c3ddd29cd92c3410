"""Runs are claimed, executed and ended here, on workers and in the processes that they start for suspects."""
