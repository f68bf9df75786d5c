"""Training on several devices as one run: starting the processes, watching them, dividing the model, and gathering."""
