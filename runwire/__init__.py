"""A durable log of events with its clients: what both services stand on."""
