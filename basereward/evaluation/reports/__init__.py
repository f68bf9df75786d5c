"""HTML pages: reports of evaluations and experiments, and the viewer of rows."""
