"""What bench_scale.py needs."""
