"""The machine that jobs share: its devices, and the locks by which they take turns."""
