"""What people say of runs, beside what judges say."""
