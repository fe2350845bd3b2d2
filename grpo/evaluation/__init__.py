"""Evaluation on benchmarks: sampling, grading, estimates with error bars, comparison."""
