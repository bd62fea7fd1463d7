"""Energy and CO2e accounting for every batch job of an HPC cluster."""

__version__ = "0.1.0"
