"""What runs: the flows, and the order of their steps."""
