"""Prediction without Keras: graphs of the zoo's networks, the engine that runs them, and their export."""
