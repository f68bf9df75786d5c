"""Lightning callbacks: checkpoints, records for MLflow, throughput, progress, step times."""
