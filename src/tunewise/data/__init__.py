"""From files and objects to examples that can be trusted."""
