"""After a run: evaluation, statistics, tables, pictures, and what was trained, for use elsewhere."""
