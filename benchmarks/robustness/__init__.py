"""What happens when something is wrong: networks, operators, files and machines that are not as they should be."""
