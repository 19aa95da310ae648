"""From run folders to what a paper prints: statistics over paired seeds, tables, plots, one page."""
