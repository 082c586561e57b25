"""Images through a network: verdicts, embeddings, unfamiliar images, attention."""
