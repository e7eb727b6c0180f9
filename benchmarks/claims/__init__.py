"""The library's claims, put to the test: ``python -m benchmarks.claims`` in the repository's root. See ../README.md."""
