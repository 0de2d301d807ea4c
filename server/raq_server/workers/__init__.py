"""What runs a request to the solver: a bounded pool, handlers, and processes that can be killed."""
