"""A declarative graph-partitioning compiler for PyTorch."""
