"""What calls are answered with: scorer runs by filter and as they change, statistics, redrives and cancellations."""
