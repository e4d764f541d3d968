"""Scores of generated signals: metrics, ceilings, identification, statistics."""
