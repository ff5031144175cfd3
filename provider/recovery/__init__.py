"""How a node whose store and log disagree comes back: what it puts back, and what it takes from others."""
