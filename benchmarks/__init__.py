"""The table of numbers: `python -m benchmarks`. Everything in it is measured in that run; nothing is asserted."""
