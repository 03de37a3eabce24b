"""data=support: a seeded generator of a small support-chat world, and the gold reward that judges it."""
