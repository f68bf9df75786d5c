"""Commands that make benchmarks: selection of pairs by judges, and their verification by people."""
