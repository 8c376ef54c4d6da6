"""From photographs to masks, cutouts and a bank on disk."""
