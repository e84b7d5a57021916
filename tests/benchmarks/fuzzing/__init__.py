"""The kinds of hostile input that `fuzz.py` tries, and the processes that try them."""
