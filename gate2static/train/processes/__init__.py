"""The devices and processes that a run trains on."""
