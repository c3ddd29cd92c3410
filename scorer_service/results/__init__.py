"""The results database: its schema and migrations, statements about many rows, faults, and the order of changes."""
