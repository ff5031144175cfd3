"""What the agents and the other nodes say, and what they are told."""
