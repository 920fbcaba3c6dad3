"""What the scripts do: `train`, `evaluate` and `render`, which use `weights` and what lies here."""
