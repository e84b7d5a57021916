"""The sections of `bench_encode.py`."""
