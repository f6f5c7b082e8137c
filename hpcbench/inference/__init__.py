"""Measuring inference endpoints: prompts, load, the client that stamps, and what came of each request."""
