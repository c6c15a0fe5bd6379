"""The four stages, one room each, and the runtime that they share."""
