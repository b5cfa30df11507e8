"""Other ways to obtain a Whisper n-best or CLIP text embeddings, measured beside this project."""
