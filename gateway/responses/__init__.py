"""Agents as models of the OpenAI Responses API, so that any client of that API can run them and read their streams."""
