"""Side-by-side measurements. Each prints what it measured; none asserts a time."""
