"""Lightning module, runs, sweeps and their record."""
