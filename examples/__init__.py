"""Runnable examples; each is also a model for the command line, such as `examples.seqnet:model`."""
