"""What is measured, each by a command of its own: see docs/operations.md and the Makefile."""
