"""Who asks, and whether they may: tokens, sessions, passwords, the policy of each route."""
