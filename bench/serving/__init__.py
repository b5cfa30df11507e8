"""Load on a server: requests over HTTP, arrivals, scenarios, and what they say.

The server is another process: of the runtime nothing takes part here but errors and the reading of audio.
"""
