"""Before a run: a command line becomes a checked Plan. Imports nothing of loop/ or report/."""
