"""Configuration of runs: specifications, suites, and the resolution of names."""
