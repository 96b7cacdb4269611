"""Write a model in the formats of other programs, and prove that each export talks like it."""
