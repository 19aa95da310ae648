"""Figures for two-column papers. Each function returns a figure and can be used separately."""
