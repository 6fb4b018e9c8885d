"""The one loop, what it trains, and what is measured on the way."""
