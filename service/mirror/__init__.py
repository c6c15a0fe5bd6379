"""What Prefect is told of us: its work pool and deployments, the definitions, and a flow run for each run."""
