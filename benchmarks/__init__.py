"""What the README and the decisions claim, measured: each a command that writes JSON."""
