"""Records of a run for MLflow: a journal on disk, its upload, the tracking store."""
