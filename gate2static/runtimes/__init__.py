"""Libraries that run exported networks, imported when first used."""
