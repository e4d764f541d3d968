"""Figures, tables and topographies."""
