"""What is measured: one file a workload, with its options, columns, points, schedule and its part in the worker."""
