"""reward=pretrained_classifier: what a sequence classifier somebody has trained says of an answer."""
