"""The domain: contracts, states, settings, signals, redaction and the store. Knows no Prefect and no HTTP."""
