"""The benchmark of the solver layer: ``python -m benchmarks.solver`` in the repository's root. See ../README.md."""
