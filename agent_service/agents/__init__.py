"""What an agent is to this service, and what it is given to run with."""
