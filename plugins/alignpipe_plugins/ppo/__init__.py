"""ppo=ppo: proximal policy optimisation for language models, after the numbered details of its README."""
