"""The process itself: an event loop that no agent can end, and an end that no agent can hold up."""
