"""The harness: what the systems of `benchmarks.systems` are measured with."""
