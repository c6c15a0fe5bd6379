"""What behaves unlike its own past during an incident, and which part of a system probably began it. Pure."""
