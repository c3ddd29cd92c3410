"""What waits to be scored: taken in, claimed by workers, ended, exported in time, and forgotten at last."""
