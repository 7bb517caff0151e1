"""The paper's experiments: configuration and calls, no algorithms."""
