"""`runwire eval`: an agent over a file of inputs, scored, compared and gated."""
