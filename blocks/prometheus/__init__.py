"""The Prometheus that alerts are checked with: its block, and the HTTP client that asks it."""
