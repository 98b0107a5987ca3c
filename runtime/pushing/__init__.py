"""Plans that come in over the network and replace the one at work."""
