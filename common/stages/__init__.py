"""The verbs: one module per stage, entered through `python -m common <verb>`."""
