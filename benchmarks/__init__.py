"""How fast the project is: ``python -m benchmarks`` measures every row of the speed table."""
