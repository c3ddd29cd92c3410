"""The prebuilt scorers; docs/scorers.md lists them."""
