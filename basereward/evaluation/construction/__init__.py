"""Construction of benchmarks: pairs that judges get wrong, verified by annotators and published with a data card."""
