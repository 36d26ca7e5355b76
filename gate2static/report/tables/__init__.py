"""Tables for the terminal that are no part of the page."""
