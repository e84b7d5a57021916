"""Clients, a server process and mutated requests, to measure the HTTP service with."""
