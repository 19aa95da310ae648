"""What a run is: its specification, the suites that ask for runs, and how names become runs."""
