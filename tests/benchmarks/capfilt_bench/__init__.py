"""The parts of bench_capfilt.py."""
