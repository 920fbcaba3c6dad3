"""What the scripts do: configuration, training, evaluation, rendering."""
