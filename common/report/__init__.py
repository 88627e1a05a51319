"""The page with everything, its charts and tables."""
