"""Programs on other frameworks, to measure beside the agent service."""
