"""`python -m runtime serve`: the recogniser behind HTTP, for OpenAI's clients and with pictures.

May import: all of `runtime` but `runtime.commands`; Starlette, uvicorn and prometheus_client (extra
`serve`). Only `runtime.commands.serve` starts it; `correction_store`, which needs no
extra, is for `bench` too.
"""
