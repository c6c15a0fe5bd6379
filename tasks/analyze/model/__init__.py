"""The analysis by a model: what it is asked, how it is asked, and what of its answer stands."""
