"""What there is to do and where its results lie: jobs, digests, records."""
