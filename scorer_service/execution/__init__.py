"""Scorers at work: in threads and processes that they may harm, with what they return held to its bounds."""
