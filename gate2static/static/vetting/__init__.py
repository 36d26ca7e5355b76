"""What a static network's files may say: its operators, their arguments, and what the whole graph takes."""
