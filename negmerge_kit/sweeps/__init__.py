"""Many fine-tuning runs, each saved as it is done: jobs, executors, and a sweep in the background."""
