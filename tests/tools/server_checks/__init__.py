"""What a server must bear, measured against a real process over HTTP.

    python -m tests.tools.server_checks CHECK --bundle models/base --options '--precision int8'

prints one JSON object; exit status 1 where what it must show was not shown.
"""
