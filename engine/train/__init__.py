"""Training: the loop, setting a run up, what it saves, and going on after any kind of end."""
