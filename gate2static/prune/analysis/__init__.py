"""The vocabulary of the channel analysis: values, their channel dimensions, who shares a channel and who needs it."""
