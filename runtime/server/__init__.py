"""`python -m runtime serve`: the recogniser behind HTTP, for OpenAI's clients and with pictures.

May import: all of `runtime` but `runtime.commands`; Starlette, uvicorn and prometheus_client (extra
`serve`). Nothing imports it but `runtime.commands.serve`, and only when it runs.
"""
