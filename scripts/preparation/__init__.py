"""Parts of scripts/prepare_data.py: archives, their sources, and pictures made from pictures."""
