"""The commands: run_pipeline, monitor_pipeline, alert-pipeline."""
