"""During a run: chunks, devices, processes, memory, checkpoints, progress. Imports nothing of report/."""
