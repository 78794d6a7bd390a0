"""A run from its task to its verdict, in the order of what happens: session, fit, outcome, verdict."""
