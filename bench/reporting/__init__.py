"""Reports of run folders: statistics over paired seeds, tables, plots, pages."""
