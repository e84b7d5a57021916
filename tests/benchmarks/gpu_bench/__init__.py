"""What bench_gpu.py needs."""
