"""The log of a run as its owner writes it, and what is kept beside it: the Run itself, the journal, the history."""
