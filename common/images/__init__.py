"""Pictures and label maps: read, coloured, kept."""
