"""pydantic-ai agents as durable agents. Nothing else of this service knows pydantic-ai."""
