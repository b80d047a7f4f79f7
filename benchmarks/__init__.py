"""Measurements of what the README and the decisions claim; each is a command that writes JSON."""
