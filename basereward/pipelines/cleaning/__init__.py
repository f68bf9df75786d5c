"""Cleans training rows by models that were not trained on them: files of folds, and rounds of training and scoring."""
