"""Converts raw data sets into the row files that task definitions describe, and generates the quickstart corpus."""
