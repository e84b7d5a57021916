"""The sections of bench_demo.py."""
