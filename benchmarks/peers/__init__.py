"""One file for each thing that is timed; each runs alone and prints one JSON line."""
