"""The systems that are measured, a package for each: see `benchmarks.harness.system`."""
