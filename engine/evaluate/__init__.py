"""Evaluation: predictions over data sets and suites, metrics, tables, charts and panels."""
