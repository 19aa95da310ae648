"""Figures for a two-column paper. Every function returns a figure and may be used alone."""
