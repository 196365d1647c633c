"""Parameters, partition store, workers, and one run of one step."""
