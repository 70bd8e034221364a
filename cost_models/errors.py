"""What can go wrong with costs."""


class CostModelError(ValueError):
    """An operator cannot be observed, priced or measured, or a table of measurements is damaged."""
