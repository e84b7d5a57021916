"""What bench_tasks.py needs."""
