"""Modules that change what a frozen base computes: stacked over a population, without any training."""
