"""Turn raw material into the canonical rows that task definitions describe."""
